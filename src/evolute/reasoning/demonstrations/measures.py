"""What did a student learn? Signs that can be counted in its answers.

    measure(texts, is_right, checks=None) -> Measures      over the answers of one student
    gain_kept(base, right, variant)          share of the gain that a perturbed set still gives

Signs are those of arXiv 2502.07374, section 5: length, words of reflection, an answer that begins
by going back though nothing came before it; and, where the task is known, steps that rest on what
was derived.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from evolute.reasoning.demonstrations.chains import StepCheck
from evolute.reasoning.demonstrations.perturb import is_reflection
from evolute.reasoning.demonstrations.trace import SOLUTION_END, THOUGHT, THOUGHT_END, segment

GOES_BACK = ("DOUBT", "BACKTRACK", "ALT", "CHECK")


@dataclass(frozen=True, slots=True)
class Measures:
    """Means over the answers."""

    n: int
    accuracy: float
    words: float  # of an answer
    reflections: float  # paragraphs with a word of reflection, of an answer
    first_goes_back: float  # share whose first step doubts, checks or goes another way
    unfinished: float  # share without the end of a solution
    coherence: float | None = None  # share of steps whose premises exist
    valid: float | None = None  # share of answers all of whose steps are coherent and right


def measure(
    texts: Sequence[str], is_right: Sequence[bool], checks: Sequence[StepCheck] | None = None
) -> Measures:
    """`checks` are of the answers' thoughts. Raises ValueError for no answers, or lists of
    different lengths."""
    thoughts = [thought_of(text) for text in texts]
    firsts = [segment(thought)[:1] for thought in thoughts]
    coherence = valid = None
    if checks is not None:
        if len(checks) != len(texts):
            raise ValueError(f"{len(checks)} checks for {len(texts)} answers")
        coherence = fmean(check.coherence for check in checks)
        whole = [0 < c.num_steps == c.num_grounded == c.num_right for c in checks]
        valid = fmean(map(float, whole))
    return Measures(
        n=len(texts),
        accuracy=fmean(float(r) for r, _ in zip(is_right, texts, strict=True)),
        words=fmean(len(text.split()) for text in texts),
        reflections=fmean(sum(map(is_reflection, t.split("\n\n"))) for t in thoughts),
        first_goes_back=fmean(bool(first) and first[0].role in GOES_BACK for first in firsts),
        unfinished=fmean(SOLUTION_END not in text for text in texts),
        coherence=coherence,
        valid=valid,
    )


def thought_of(text: str) -> str:
    """What stands in the thought block; of a text without one, all of it."""
    return text.partition(THOUGHT)[2].partition(THOUGHT_END)[0].strip() if THOUGHT in text else text


def gain_kept(base: float, right: float, variant: float) -> float:
    """(variant - base) / (right - base): 1 when the perturbation costs nothing, 0 when all of the
    gain is gone, below 0 when the student is worse than before. NaN without a gain."""
    gain = right - base
    return (variant - base) / gain if gain else float("nan")
