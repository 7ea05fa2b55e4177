"""A strong model that is none: it writes the right program for the problem that it is shown.

Teacher(noise=0.0)      a TextBackend; with `noise` that share of programs is wrong

What it writes is the program of one instance, its values inlined, as a language model would. What a
buffer makes of that, and what the passes cost, is measured exactly; nothing about models is.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from evolute.lang.account import Spent
from evolute.lang.backend import Capabilities, Prompt, Reply, TextRequest
from evolute.reasoning.thought_buffer.distill import extract, places
from evolute.reasoning.thought_buffer.programs import PROGRAMS, Seed
from evolute.types import Delta, FinishReason, Message, NotSupported, Output

CHARS_PER_TOKEN = 4  # what it bills
MARKS = {
    "game-of-24": "exactly once. Answer with the expression",
    "word-sorting": "sort these words",
    "arithmetic": "arithmetic problem",
    "dates": "Which date is",
    "checkmate-in-one": "can mate in one",
    "shapes": "SVG path",
    "table-questions": "A table of",
}


class Teacher:
    """Chats and bills; everything else is refused."""

    model_name = "teacher"
    capabilities = Capabilities(chats=True)

    def __init__(self, noise: float = 0.0) -> None:
        self._noise = noise
        self.calls = 0

    async def generate(self, request: TextRequest) -> Reply:
        self.calls += 1
        said = "\n".join(str(message["content"]) for message in request.prompt.messages)
        first = str(request.prompt.messages[0]["content"])
        text = self._answer(first.rpartition("Problem:\n")[2], request.sampling.seed or 0)
        spent = Spent(1, _tokens(said), 0, _tokens(text))
        return Reply((_output(text, spent),), spent)

    # -- internals ---------------------------------------------------------------

    def _answer(self, problem: str, seed: int) -> str:
        seeds = {seed.family: seed for seed in PROGRAMS}
        family = next((name for name, mark in MARKS.items() if mark in problem), None)
        if family is None or random.Random(seed).random() < self._noise:
            return "```python\nprint('I do not know')\n```"
        return f"```python\n{inlined(seeds[family], problem)}\n```"

    def stream(self, request: TextRequest) -> AsyncIterator[Delta | Reply]:
        raise NotSupported("the teacher does not stream.")

    async def encode(self, prompt: Prompt) -> tuple[int, ...]:
        raise NotSupported("the teacher tells no tokens.")

    async def decode(self, token_ids: Sequence[int]) -> str:
        raise NotSupported("the teacher tells no tokens.")

    async def score(
        self, prefix: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> tuple[list[tuple[float, ...]], Spent]:
        raise NotSupported("the teacher tells no tokens.")

    async def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        is_open: bool = False,
        add_generation_prompt: bool = False,
    ) -> str:
        raise NotSupported("the teacher has no chat template.")

    async def prepare(self, prompt: Prompt) -> Spent:
        return Spent()

    async def flush(self) -> None:
        """Nothing is cached."""

    async def describe(self) -> Mapping[str, Any]:
        return {"model_path": self.model_name}

    async def aclose(self) -> None:
        """Nothing is open."""


def inlined(seed: Seed, problem: str) -> str:
    """The family's program with one problem's values in it."""
    known = places(extract(problem))
    given = "".join(f"{name} = {known[how]!r}\n" for name, _, how in seed.slots)
    return given + seed.program


# -- internals ---------------------------------------------------------------


def _tokens(text: str) -> int:
    return -(-len(text) // CHARS_PER_TOKEN)


def _output(text: str, spent: Spent) -> Output:
    return Output(
        text=text,
        token_ids=(),
        logprobs=(),
        finish_reason=FinishReason.STOP,
        cached_tokens=0,
        weight_version=0,
        prompt_tokens=spent.prompt_tokens,
        index=0,
    )
