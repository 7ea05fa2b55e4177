"""A text backend that answers from a script.

ScriptedTextBackend(["4", "5"])                 answers in turn, then repeats the last
ScriptedTextBackend(lambda request: "4")        a function of the TextRequest
ScriptedTextBackend([BackendError("gone")])     an exception in the script is raised
backend.requests, backend.prepared              what it was asked, in order
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from evolute.lang.account import Spent
from evolute.lang.backend import Capabilities, Prompt, Reply, TextRequest
from evolute.lang.endpoints.tokens import OnTokens
from evolute.testing.backends import ScriptedBackend
from evolute.types import Delta, Message, NotSupported, Output

TextAnswer = str | Reply | Exception
TextScript = Sequence[TextAnswer] | Callable[[TextRequest], TextAnswer]
ALL = Capabilities(
    completes=True,
    chats=True,
    continues_turn=True,
    renders=True,
    tokens=True,
    logprobs=True,
    tools=True,
    hints=True,
)


class ScriptedTextBackend:
    """Implements `evolute.lang.backend.TextBackend` without a model.

    A text is cut at `max_new_tokens` and at the first stop string as `ScriptedBackend` cuts it,
    tokens are bytes, and the log-probability of a token is -(id % 10) / 10; a `Reply` is given as
    it is. Sample i of n takes the next answer. `delay_s` passes before each answer. With other
    `capabilities` it tells no tokens, or refuses, as such an endpoint would.
    """

    def __init__(
        self,
        script: TextScript = ("ok",),
        *,
        capabilities: Capabilities = ALL,
        delay_s: float = 0.0,
        model_name: str = "scripted",
    ) -> None:
        self._script = script
        self._next = 0
        self._tokens = OnTokens(ScriptedBackend())
        self.capabilities = capabilities
        self.model_name = model_name
        self.delay_s = delay_s
        self.requests: list[TextRequest] = []
        self.prepared: list[Prompt] = []
        self.flushed = 0

    async def generate(self, request: TextRequest) -> Reply:
        self.requests.append(request)
        answers = [self._answer(request) for _ in range(request.sampling.n)]
        await asyncio.sleep(self.delay_s)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, Reply):
                return answer
        texts = [answer for answer in answers if isinstance(answer, str)]
        return self._told(await OnTokens(ScriptedBackend(texts)).generate(self._plain(request)))

    async def stream(self, request: TextRequest) -> AsyncIterator[Delta | Reply]:
        """A character at a time, sample after sample."""
        reply = await self.generate(request)
        for output in reply.outputs:
            for delta in _deltas(output):
                await asyncio.sleep(0)
                yield delta
        yield reply

    async def encode(self, prompt: Prompt) -> tuple[int, ...]:
        self._need("tokens")
        return await self._tokens.encode(prompt)

    async def decode(self, token_ids: Sequence[int]) -> str:
        self._need("tokens")
        return await self._tokens.decode(token_ids)

    async def score(
        self, prefix: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> tuple[list[tuple[float, ...]], Spent]:
        self._need("tokens")
        return await self._tokens.score(prefix, continuations)

    async def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        is_open: bool = False,
        add_generation_prompt: bool = False,
    ) -> str:
        """<turn>role\\ncontent<end> for each message; tools are not shown."""
        self._need("renders")
        return await self._tokens.render(
            messages, is_open=is_open, add_generation_prompt=add_generation_prompt
        )

    async def prepare(self, prompt: Prompt) -> Spent:
        if not self.capabilities.hints:
            return Spent()
        self.prepared.append(prompt)
        return await self._tokens.prepare(prompt)

    async def flush(self) -> None:
        self.flushed += 1

    async def describe(self) -> Mapping[str, Any]:
        return {"model_path": self.model_name, "requests": len(self.requests)}

    async def aclose(self) -> None:
        """Nothing is open."""

    # -- internals ---------------------------------------------------------------

    def _answer(self, request: TextRequest) -> TextAnswer:
        if callable(self._script):
            return self._script(request)
        answer = self._script[min(self._next, len(self._script) - 1)]
        self._next += 1
        return answer

    def _plain(self, request: TextRequest) -> TextRequest:
        """Without what the script decides; a chat's messages become its prompt."""
        prompt = request.prompt
        if not prompt.pieces:
            prompt = Prompt.of("".join(message["content"] for message in prompt.messages))
        return replace(request, prompt=prompt, tools=(), adapter=None)

    def _told(self, reply: Reply) -> Reply:
        if self.capabilities.tokens:
            return reply
        outputs = tuple(replace(o, token_ids=(), logprobs=()) for o in reply.outputs)
        return replace(reply, outputs=outputs)

    def _need(self, name: str) -> None:
        if not getattr(self.capabilities, name):
            raise NotSupported(f"{self.model_name} has no {name!r}.")


def _deltas(output: Output) -> list[Delta]:
    """One for each character; the tokens come with the first."""
    pieces = list(output.text) or [""]
    first = Delta(output.index, pieces[0], output.token_ids, output.logprobs)
    return [first, *(Delta(output.index, piece, (), ()) for piece in pieces[1:])]
