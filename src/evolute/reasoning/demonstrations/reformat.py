"""Is a raw answer usable as a demonstration?

    reformat(raw) -> Trace | Rejected     by rules: the blocks, or a thinking model's own tags
    await rewrite(raw, teacher, limit)    asks a model to copy the answer into the blocks

A cut answer is never used. A rewritten text must be the raw one but for its tags: more than a tenth
of other words, and it is rejected.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evolute.lang.backend import TextBackend, TextRequest
from evolute.reasoning.asking import prompt_of
from evolute.reasoning.demonstrations.trace import (
    SOLUTION,
    SOLUTION_END,
    TAGS,
    THOUGHT,
    THOUGHT_END,
    StepsBy,
    Trace,
    parse,
)
from evolute.types import FinishReason, Message, SamplingParams

MAX_CHANGE = 0.1  # share of words that a rewriting may add, drop or replace
_THINK = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)
_ASK = (
    f"Copy the answer below word for word, and only add tags: {THOUGHT} before and {THOUGHT_END} "
    f"after the reasoning, then {SOLUTION} before and {SOLUTION_END} after the final answer. Write "
    "nothing else.\n\n"
)


@dataclass(frozen=True, slots=True)
class Rejected:
    """Why an answer is no demonstration."""

    why: str


def reformat(
    raw: Mapping[str, Any],
    domain: str = "",
    rewritten: str | None = None,
    by: StepsBy = "breaks",
) -> Trace | Rejected:
    """One row of `sample` as a trace; `rewritten` is the same answer with the tags put in."""
    if raw["finish_reason"] == FinishReason.LENGTH:
        return Rejected("cut")
    text = raw["text"]
    if rewritten is not None:
        if change_of(text, rewritten) > MAX_CHANGE:
            return Rejected("rewritten")
        text = rewritten
    try:
        return parse(_blocks(text), raw["prompt"], raw["problem_id"], domain, by)
    except ValueError as error:
        return Rejected(str(error))


async def rewrite(raw: Mapping[str, Any], teacher: TextBackend, max_new_tokens: int) -> str:
    """The answer with its tags put in by a model, greedily; `reformat` checks it."""
    message: Message = {"role": "user", "content": _ASK + raw["text"]}
    sampling = SamplingParams(max_new_tokens=max_new_tokens, temperature=0.0)
    request = TextRequest(await prompt_of(teacher, [message]), sampling)
    reply = await teacher.generate(request)
    return reply.outputs[0].text


def change_of(before: str, after: str) -> float:
    """Share of words in which two texts differ, tags aside: 0 for the same words in order."""
    one, two = _words(before), _words(after)
    if not one and not two:
        return 0.0
    same = difflib.SequenceMatcher(None, one, two, autojunk=False).get_matching_blocks()
    return 1 - sum(block.size for block in same) / max(len(one), len(two))


# -- internals ---------------------------------------------------------------


def _blocks(text: str) -> str:
    """A thinking model's `<think>` as the thought; other texts stay."""
    found = _THINK.fullmatch(text)
    if found is None or any(tag in text for tag in TAGS):
        return text
    parts = (THOUGHT, found[1].strip(), THOUGHT_END, SOLUTION, found[2].strip(), SOLUTION_END)
    return "\n\n".join(part for part in parts if part)


def _words(text: str) -> list[str]:
    for tag in (*TAGS, "<think>", "</think>"):
        text = text.replace(tag, " ")
    return text.split()
