"""A teacher that costs nothing: it answers `chain-with-traps` by a program.

ChainTeacher(wrong=0.4)      a TextBackend; that share of its answers is wrong

An answer depends on the question and on the seed of the request alone.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from evolute.envs.chains import read_chain
from evolute.lang.account import Spent
from evolute.lang.backend import Capabilities, Prompt, Reply, TextRequest
from evolute.reasoning.demonstrations.chains import Style, demonstrate, wrong_demonstration
from evolute.reasoning.demonstrations.trace import render
from evolute.types import Delta, FinishReason, Message, NotSupported, Output, RequestError


class ChainTeacher:
    """Chats, and nothing else. Tokens are counted as words."""

    model_name = "chain-teacher"
    capabilities = Capabilities(chats=True)

    def __init__(self, wrong: float = 0.0, style: Style | None = None) -> None:
        self._wrong, self._style = wrong, style
        self.model_name = f"chain-teacher-{wrong:g}"

    async def generate(self, request: TextRequest) -> Reply:
        """Raises RequestError for a question that is no chain."""
        question = request.prompt.messages[-1]["content"] if request.prompt.messages else ""
        outputs = [self._output(question, request, i) for i in range(request.sampling.n)]
        words = len(question.split()), sum(len(o.text.split()) for o in outputs)
        return Reply(tuple(outputs), Spent(1, words[0], output_tokens=words[1]))

    async def stream(self, request: TextRequest) -> AsyncIterator[Delta | Reply]:
        reply = await self.generate(request)
        for output in reply.outputs:
            yield Delta(output.index, output.text, (), ())
        yield reply

    async def encode(self, prompt: Prompt) -> tuple[int, ...]:
        raise self._lacks("tokens")

    async def decode(self, token_ids: Sequence[int]) -> str:
        raise self._lacks("tokens")

    async def score(
        self, prefix: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> tuple[list[tuple[float, ...]], Spent]:
        raise self._lacks("tokens")

    async def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        is_open: bool = False,
        add_generation_prompt: bool = False,
    ) -> str:
        raise self._lacks("renders")

    async def prepare(self, prompt: Prompt) -> Spent:
        return Spent()

    async def flush(self) -> None:
        raise self._lacks("a prefix cache")

    async def describe(self) -> Mapping[str, Any]:
        return {"model_path": self.model_name}

    async def aclose(self) -> None:
        """Nothing is open."""

    # -- internals ---------------------------------------------------------------

    def _output(self, question: str, request: TextRequest, index: int) -> Output:
        try:
            chain = read_chain(question)
        except ValueError as error:
            raise RequestError(
                f"{self.model_name} answers chain-with-traps only: {error}."
            ) from error
        rng = random.Random(f"{question}/{request.sampling.seed}/{index}")
        if rng.random() < self._wrong:
            trace = wrong_demonstration(chain, rng, rng.choice(("slip", "random")))
        else:
            trace = demonstrate(chain, rng, self._style)
        return Output(render(trace), (), (), FinishReason.STOP, 0, 0, index=index)

    def _lacks(self, what: str) -> NotSupported:
        return NotSupported(f"{self.model_name} has no {what}; it only chats.")
