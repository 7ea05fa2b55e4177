"""How does a program run on a server of ours?

    RuntimeEndpoint(url)              a TextBackend on the native API; needs no model here
    Runtime(model_path, **settings)   starts `evolute serve` and ends it

Tokens, chat template and grammar are the server's: texts are tokenised and messages rendered
there, and what was asked once is kept.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from evolute.lang.account import Spent
from evolute.lang.backend import Capabilities, Made, Prompt, Reply, TextRequest
from evolute.lang.endpoints import native
from evolute.lang.endpoints.scoring import score_each
from evolute.lang.endpoints.transport import Transport
from evolute.lang.interpreter.bridge import blocking
from evolute.types import BackendError, Delta, Message, NotSupported, SamplingParams

SCORING = SamplingParams(max_new_tokens=0, temperature=0.0)
MAX_CONNECTIONS = 512
MAX_KEPT = 4096  # texts and renderings


class RuntimeEndpoint:
    """Usable from several event loops. The URL may be that of the server or end in /v1."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        verify: Any = None,
        chat_template_name: str | None = None,
        *,
        model: str = "default",
        timeout_s: float = 600.0,
        max_retries: int = 3,
    ) -> None:
        if chat_template_name is not None:
            raise NotSupported("chat_template_name: the template is the model's own; leave it out.")
        self.url = base_url.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.transport = Transport(
            self.url,
            headers,
            timeout_s=timeout_s,
            max_retries=max_retries,
            max_connections=MAX_CONNECTIONS,
            verify=True if verify is None else verify,
        )
        self.model_name = model
        self.capabilities = Capabilities(
            completes=True,
            chats=True,
            continues_turn=True,
            renders=True,
            tokens=True,
            logprobs=True,
            hints=True,
        )
        self._kept: OrderedDict[Any, Any] = OrderedDict()

    async def generate(self, request: TextRequest) -> Reply:
        return native.reply(await self._generate(self._lowered(request)))

    async def stream(self, request: TextRequest) -> AsyncIterator[Delta | Reply]:
        deltas = native.Deltas(request)
        body = self._lowered(request) | {"stream": True}
        async with aclosing(self.transport.events("/generate", body)) as events:
            async for event in events:
                for delta in deltas.push(event):
                    yield delta
        yield deltas.reply()

    async def encode(self, prompt: Prompt) -> tuple[int, ...]:
        texts = [
            (piece.text, index == 0 and not prompt.messages)
            for index, piece in enumerate(prompt.pieces)
            if not isinstance(piece, Made)
        ]
        tokens = iter(await asyncio.gather(*(self._tokenize(*text) for text in texts)))
        found: list[int] = []
        for piece in prompt.pieces:
            found += piece.token_ids if isinstance(piece, Made) else next(tokens)
        return tuple(found)

    async def decode(self, token_ids: Sequence[int]) -> str:
        body = {"tokens": list(token_ids), "skip_special_tokens": False, "model": self.model_name}
        return str((await self.transport.json("POST", "/detokenize", body))["text"])

    async def score(
        self, prefix: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> tuple[list[tuple[float, ...]], Spent]:
        return await score_each(prefix, continuations, self._score)

    async def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        is_open: bool = False,
        add_generation_prompt: bool = False,
    ) -> str:
        body: dict[str, Any] = {
            "model": self.model_name,
            "messages": list(messages),
            "add_generation_prompt": add_generation_prompt,
            "return_text": True,
        }
        if is_open:
            body["continue_final_message"] = True
        if tools:
            body["tools"] = list(tools)
        return str((await self._asked("/tokenize", body))["text"])

    async def prepare(self, prompt: Prompt) -> Spent:
        if not prompt.pieces:
            return Spent()
        return (await self.generate(TextRequest(prompt, SCORING))).spent

    async def flush(self) -> None:
        response = await self.transport.send("POST", "/flush_cache")
        await response.aclose()

    async def describe(self) -> Mapping[str, Any]:
        return await self.transport.json("GET", "/server_info")

    async def aclose(self) -> None:
        await self.transport.aclose()

    def close(self) -> None:
        """Close the connections of plain runs."""
        blocking(self.aclose())

    # -- SGLang's names --------------------------------------------------------------

    def get_model_name(self) -> str:
        return self.model_name

    # -- internals ---------------------------------------------------------------

    def _lowered(self, request: TextRequest) -> dict[str, Any]:
        if request.tools:
            raise NotSupported("tools: ask OpenAI(model, base_url=...) of this server instead.")
        return native.body(request)

    async def _generate(self, body: Mapping[str, Any]) -> Any:
        return await self.transport.value("POST", "/generate", body)

    async def _score(
        self, prefix: tuple[int, ...], continuation: tuple[int, ...]
    ) -> tuple[tuple[float, ...], Spent]:
        sampling = replace(SCORING, prompt_logprobs=True, prompt_logprobs_from=len(prefix) - 1)
        request = TextRequest(Prompt().then(Made("-", prefix + continuation)), sampling)
        reply = await self.generate(request)
        told = reply.outputs[0].prompt_logprobs[-len(continuation) :]
        if len(told) != len(continuation) or any(value is None for value in told):
            raise BackendError(f"{self.url} told no log-probabilities of the prompt.")
        return tuple(float(value) for value in told if value is not None), reply.spent

    async def _tokenize(self, text: str, begins: bool) -> tuple[int, ...]:
        """`begins`: with the special tokens that a text begins with."""
        body = {"model": self.model_name, "prompt": text, "add_special_tokens": begins}
        return tuple((await self._asked("/tokenize", body))["tokens"])

    async def _asked(self, path: str, body: Mapping[str, Any]) -> Any:
        key = json.dumps(body, sort_keys=True)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        value = await self.transport.json("POST", path, body)
        self._kept[key] = value
        while len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return value
