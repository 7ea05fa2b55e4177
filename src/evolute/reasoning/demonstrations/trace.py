"""Which parts does a trace of reasoning have, and how is it written?

    Trace(prompt, steps, solution)      a question, the steps of a thought, and the answer block
    render(trace) -> str                the assistant's turn: two tagged blocks
    parse(text, prompt) -> Trace        back; ValueError when the blocks are not as they must be
    segment(thought) -> steps           a new one begins where the flow breaks
    row_of(trace), read_row(row)        one line of traces.jsonl
    training_row(trace)                 one line for `train sft` (ShareGPT)

The format is Sky-T1's (github.com/NovaSky-AI/SkyThought): a thought and a solution between tags,
paragraphs apart by blank lines. A step is what arXiv 2502.07374 moves, drops and replaces: a run of
paragraphs without a break of the flow, or, where a teacher writes so, each paragraph.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from evolute.types import Message

THOUGHT, THOUGHT_END = "<|begin_of_thought|>", "<|end_of_thought|>"
SOLUTION, SOLUTION_END = "<|begin_of_solution|>", "<|end_of_solution|>"
TAGS = (THOUGHT, THOUGHT_END, SOLUTION, SOLUTION_END)
ROLES = ("PLAN", "STEP", "CHECK", "DOUBT", "BACKTRACK", "ALT", "CONCLUDE")
StepsBy = Literal["breaks", "paragraphs"]
SYSTEM = (
    "First think step by step within <|begin_of_thought|> and <|end_of_thought|>: plan, work, "
    "check, and go back where a step was wrong; leave a blank line between steps. Then give the "
    "final answer within <|begin_of_solution|> and <|end_of_solution|>."
)
_CUES = {  # how a paragraph begins that breaks the flow; the first that fits names its role
    "DOUBT": r"wait|hmm|hold on|no,|actually|that (?:is|looks|seems) (?:wrong|off)|i made",
    "BACKTRACK": r"(?:let me |let's )?(?:go(?:ing)? back|return(?:ing)?|redo|start over|try again)",
    "CHECK": r"(?:let me |let's |to )?(?:check|double[- ]check|verify|re-?check|test)",
    "ALT": r"alternatively|another (?:way|approach|method|route)|instead|what if",
    "CONCLUDE": r"(?:so|therefore|thus|hence|in conclusion|finally)\b|the (?:final )?answer",
    "PLAN": r"(?:first|plan|let me think|i need|we need|to solve|okay|alright)",
}
_BREAKS = tuple((role, re.compile(rf"\W*(?:{cue})", re.IGNORECASE)) for role, cue in _CUES.items())


@dataclass(frozen=True, slots=True)
class Step:
    """A run of paragraphs with one part to play. Invariant: no blank ends, not empty."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Trace:
    """One demonstration. `steps` may be empty: then only the solution is left."""

    prompt: tuple[Message, ...]
    steps: tuple[Step, ...]
    solution: str
    problem_id: str = ""
    domain: str = ""  # the task it belongs to

    @property
    def thought(self) -> str:
        return "\n\n".join(step.text for step in self.steps)


def render(trace: Trace) -> str:
    """The assistant's turn."""
    inner = f"{trace.thought}\n\n" if trace.steps else ""
    return f"{THOUGHT}\n\n{inner}{THOUGHT_END}\n\n{SOLUTION}\n\n{trace.solution}\n\n{SOLUTION_END}"


def parse(
    text: str,
    prompt: Sequence[Message] = (),
    problem_id: str = "",
    domain: str = "",
    by: StepsBy = "breaks",
) -> Trace:
    """A trace from its text. Raises ValueError unless each tag stands there once, in order, with
    nothing around the blocks, and the solution is not empty."""
    found = [text.count(tag) for tag in TAGS]
    if found != [1, 1, 1, 1]:
        missing = [tag for tag, n in zip(TAGS, found) if n != 1]
        raise ValueError(f"{missing[0]} stands there {text.count(missing[0])} times, not once")
    places = [text.index(tag) for tag in TAGS]
    before, thought, between, solution, after = _cut(text, places)
    if places != sorted(places):
        raise ValueError("the tags are out of order")
    if before or between or after:
        raise ValueError("there is text outside the two blocks")
    if not solution:
        raise ValueError("the solution is empty")
    return Trace(tuple(prompt), segment(thought, by), solution, problem_id, domain)


def segment(thought: str, by: StepsBy = "breaks") -> tuple[Step, ...]:
    """Steps of a thought: a new one begins at each paragraph that breaks the flow (doubt, going
    back, checking, another route, concluding), and after such a one at the next paragraph; or at
    each paragraph."""
    steps: list[Step] = []
    for paragraph in re.split(r"\n\s*\n", thought.strip()):
        if not paragraph.strip():
            continue
        role, text = role_of(paragraph), paragraph.strip()
        if by == "breaks" and role == "STEP" and steps and steps[-1].role in ("STEP", "PLAN"):
            steps[-1] = Step(steps[-1].role, f"{steps[-1].text}\n\n{text}")
        else:
            steps.append(Step(role, text))
    return tuple(steps)


def role_of(paragraph: str) -> str:
    """The part that a paragraph plays, by how it begins; STEP when it goes on."""
    return next((role for role, cue in _BREAKS if cue.match(paragraph)), "STEP")


def row_of(trace: Trace) -> dict[str, Any]:
    return {
        "problem_id": trace.problem_id,
        "domain": trace.domain,
        "prompt": [dict(message) for message in trace.prompt],
        "steps": [{"role": step.role, "text": step.text} for step in trace.steps],
        "solution": trace.solution,
    }


def read_row(row: Mapping[str, Any]) -> Trace:
    """Raises ValueError for a row that is none of `row_of`."""
    try:
        return Trace(
            tuple(
                cast(Message, {"role": m["role"], "content": m["content"]}) for m in row["prompt"]
            ),
            tuple(Step(str(step["role"]), str(step["text"])) for step in row["steps"]),
            str(row["solution"]),
            str(row["problem_id"]),
            str(row["domain"]),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"it is no trace: {error!r}") from error


def training_row(trace: Trace) -> dict[str, Any]:
    """As `train sft` and other trainers read it."""
    system = "\n\n".join(m["content"] for m in trace.prompt if m["role"] == "system")
    turns = [
        {"from": m["role"], "value": m["content"]} for m in trace.prompt if m["role"] != "system"
    ]
    turns.append({"from": "assistant", "value": render(trace)})
    named = {"problem_id": trace.problem_id, "conversations": turns}
    return {"system": system, **named} if system else named


# -- internals ---------------------------------------------------------------


def _cut(text: str, places: Sequence[int]) -> list[str]:
    """What stands before, within, between and after the blocks, without blank ends."""
    edges = [0]
    for place, tag in zip(places, TAGS):
        edges += [place, place + len(tag)]
    edges.append(len(text))
    return [text[edges[i] : edges[i + 1]].strip() for i in range(0, len(edges), 2)]
