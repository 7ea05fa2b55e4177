"""What of a trace does a student need: its structure, or what its steps say?

    shuffle, delete, insert                       structure: whole steps move, go, are foreign
    corrupt_digits, drop_keywords, wrong_answers  content: what is said within steps
    perturb(traces, kind, share, seed, pool)      one of them over a set, each trace by its own seed

Each is `(trace, share, rng, pool) -> Trace` and pure: the result depends on its arguments and the
state of `rng`. Edits of structure leave the solution as it is. After arXiv 2502.07374, section 4;
what is optional here are controls which the paper lacks (length, domain, place of the corruption).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from evolute.reasoning.demonstrations.trace import Step, Trace
from evolute.types import ConfigError
from evolute.types.settings import nearest

Within = Literal["thought", "solution", "both"]
Domain = Literal["any", "same", "other"]
KEYWORDS = ("wait", "alternatively", "check", "double-check", "verify", "hmm", "however", "back")
FILLER = "This step is left out here."
_KEYWORD = re.compile(r"\b(?:" + "|".join(KEYWORDS) + r")\b", re.IGNORECASE)
_SENTENCE = re.compile(r"(?:[^.!?;\n]|[.!?;](?!\s|$))*(?:[.!?;]+|\n|$)\s*")


def shuffle(
    trace: Trace,
    share: float,
    rng: random.Random,
    pool: Sequence[Trace] = (),
    *,
    within_role: bool = False,
) -> Trace:
    """Permute a share of the steps so that none of them stays; at least two, where there are two.
    With `within_role` steps change places only with those that play the same part."""
    steps = list(trace.steps)
    chosen = _chosen(len(steps), share, rng, least=2)
    groups: dict[str, list[int]] = {}
    for at in chosen:
        groups.setdefault(steps[at].role if within_role else "", []).append(at)
    for places in groups.values():
        for place, source in zip(places, derangement(places, rng)):
            steps[place] = trace.steps[source]
    return replace(trace, steps=tuple(steps))


def delete(
    trace: Trace,
    share: float,
    rng: random.Random,
    pool: Sequence[Trace] = (),
    *,
    pad: bool = False,
) -> Trace:
    """Drop a share of the steps. With `pad` a filler of the same length stands in each one's place:
    then the trace is as long as it was, and the loss has as many tokens or nearly."""
    gone = set(_chosen(len(trace.steps), share, rng))
    kept = [
        Step("STEP", _filler(len(step.text))) if at in gone else step
        for at, step in enumerate(trace.steps)
        if pad or at not in gone
    ]
    return replace(trace, steps=tuple(kept))


def insert(
    trace: Trace,
    share: float,
    rng: random.Random,
    pool: Sequence[Trace] = (),
    *,
    domain: Domain = "any",
) -> Trace:
    """Replace a share of the steps by random ones of other problems' traces in `pool`; `domain`
    says of which tasks. Raises ConfigError when the pool has none."""
    chosen = _chosen(len(trace.steps), share, rng)
    if not chosen:
        return trace
    others = [
        other
        for other in pool
        if other.steps and other.problem_id != trace.problem_id and _fits(domain, trace, other)
    ]
    if not others:
        raise ConfigError(
            f"insert needs steps of other traces (domain {domain!r}), and the pool has none; give "
            "traces of more problems, or another domain."
        )
    steps = list(trace.steps)
    for at in chosen:
        steps[at] = rng.choice(rng.choice(others).steps)
    return replace(trace, steps=tuple(steps))


def corrupt_digits(
    trace: Trace,
    share: float,
    rng: random.Random,
    pool: Sequence[Trace] = (),
    *,
    within: Within = "thought",
) -> Trace:
    """Replace each digit, with probability `share`, by a random one."""

    def changed(text: str) -> str:
        return re.sub(
            r"[0-9]", lambda d: str(rng.randrange(10)) if rng.random() < share else d[0], text
        )

    steps, solution = trace.steps, trace.solution
    if within in ("thought", "both"):
        steps = tuple(Step(step.role, changed(step.text)) for step in steps)
    if within in ("solution", "both"):
        solution = changed(solution)
    return replace(trace, steps=steps, solution=solution)


def drop_keywords(
    trace: Trace, share: float, rng: random.Random, pool: Sequence[Trace] = ()
) -> Trace:
    """Delete a share of the sentences that hold a word of reflection; a step that has nothing else
    goes with its last one."""
    cut = [_SENTENCE.findall(step.text) for step in trace.steps]
    places = [(i, j) for i, part in enumerate(cut) for j, s in enumerate(part) if is_reflection(s)]
    gone = {places[n] for n in _chosen(len(places), share, rng)}
    steps = []
    for i, (step, part) in enumerate(zip(trace.steps, cut)):
        left = [sentence for j, sentence in enumerate(part) if (i, j) not in gone]
        text = step.text if len(left) == len(part) else "".join(left).strip()
        if text:
            steps.append(Step(step.role, text))
    return replace(trace, steps=tuple(steps))


def wrong_answers(
    trace: Trace, share: float, rng: random.Random, pool: Sequence[Trace] = ()
) -> Trace:
    """With probability `share` a trace of `pool`, which holds wrong ones: of the same problem where
    there is one. Raises ConfigError for an empty pool."""
    if not pool:
        raise ConfigError("wrong_answers needs a pool of wrong traces; keep those of `verify`.")
    if rng.random() >= share:
        return trace
    same = [other for other in pool if other.problem_id == trace.problem_id]
    return rng.choice(same or list(pool))


Perturbation = Callable[..., Trace]
PERTURBATIONS: dict[str, Perturbation] = {
    f.__name__: f for f in (shuffle, delete, insert, corrupt_digits, drop_keywords, wrong_answers)
}
STRUCTURE, CONTENT = ("shuffle", "delete", "insert"), tuple(PERTURBATIONS)[3:]


def perturb(
    traces: Sequence[Trace],
    kind: str,
    share: float,
    seed: int,
    pool: Sequence[Trace] = (),
    **options: Any,
) -> list[Trace]:
    """All traces perturbed. A trace's edit depends on (seed, kind, share, its problem and place
    among those of that problem), not on its neighbours. Raises ConfigError."""
    if kind not in PERTURBATIONS:
        raise ConfigError(f"no perturbation {kind!r}. {nearest(kind, PERTURBATIONS)}")
    if not 0 <= share <= 1:
        raise ConfigError(f"share is {share}; it is a part of the steps, from 0 to 1.")
    change, found = PERTURBATIONS[kind], []
    seen: dict[str, int] = {}
    for trace in traces:
        number = seen[trace.problem_id] = seen.get(trace.problem_id, -1) + 1
        rng = random.Random(f"{seed}/{kind}/{share}/{trace.problem_id}/{number}")
        try:
            found.append(change(trace, share, rng, pool or traces, **options))
        except TypeError as error:
            raise ConfigError(f"{kind} does not take {sorted(options)}: {error}") from error
    return found


def derangement(places: Sequence[int], rng: random.Random) -> list[int]:
    """The places in an order in which none stands where it stood, each such order as likely as the
    others; a single one stays."""
    if len(places) < 2:
        return list(places)
    while True:  # one draw in e is one
        order = rng.sample(places, len(places))
        if all(a != b for a, b in zip(order, places)):
            return order


def is_reflection(sentence: str) -> bool:
    return _KEYWORD.search(sentence) is not None


# -- internals ---------------------------------------------------------------


def _chosen(count: int, share: float, rng: random.Random, least: int = 0) -> list[int]:
    """Which of `count` things a share is, in order."""
    wanted = round(share * count)
    if 0 < wanted < least:
        wanted = min(least, count)
    return sorted(rng.sample(range(count), wanted))


def _fits(domain: Domain, trace: Trace, other: Trace) -> bool:
    return domain == "any" or (other.domain == trace.domain) == (domain == "same")


def _filler(length: int) -> str:
    return (f"{FILLER} " * (length // len(FILLER) + 1))[: max(length, 1)].strip() or FILLER[:1]
