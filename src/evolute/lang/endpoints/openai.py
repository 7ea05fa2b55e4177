"""How does a program run on any OpenAI-compatible endpoint?

    OpenAI(model, base_url=..., api_key=...)                      /v1/chat/completions
    OpenAI(model, base_url=..., is_chat_model=False)              /v1/completions

A chat endpoint is sent messages alone: gen is the first in its assistant's turn, unless the server
goes on within a turn (`continues_turn=True`; ours does). What the API has no field for is refused
by name before anything is sent.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, NoReturn

from evolute.lang.account import Spent
from evolute.lang.backend import Capabilities, Prompt, Reply, TextRequest, ToolCall
from evolute.lang.echoes import Echo
from evolute.lang.endpoints.transport import Transport, failure
from evolute.lang.gens import check
from evolute.lang.interpreter.bridge import blocking
from evolute.types import (
    BackendError,
    Delta,
    FinishReason,
    Message,
    NotSupported,
    Output,
    Tokenizer,
)

STANDARD = {  # setting of SamplingParams -> field of the body
    "max_new_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "logit_bias": "logit_bias",
    "seed": "seed",
    "n": "n",
    "stop": "stop",
}
ONLY_COMPLETE = ("gpt-3.5-turbo-instruct", "davinci-002", "babbage-002")
URL = "https://api.openai.com/v1"
MAX_CONNECTIONS = 256
REASONS = {"length": FinishReason.LENGTH, "content_filter": FinishReason.ABORT}


class OpenAI:
    """`api_key` is taken from OPENAI_API_KEY when it is not given; `tokenizer`, the model's own,
    counts tokens for num_api_spec_tokens. Usable from several loops."""

    def __init__(
        self,
        model: str,
        is_chat_model: bool | None = None,
        *,
        base_url: str = URL,
        api_key: str | None = None,
        continues_turn: bool = False,
        timeout_s: float = 600.0,
        max_retries: int = 3,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self.model_name, self.tokenizer = model, tokenizer
        self.is_chat = model not in ONLY_COMPLETE if is_chat_model is None else is_chat_model
        key = api_key if api_key is not None else os.environ.get("OPENAI_API_KEY", "")
        self.transport = Transport(
            base_url.rstrip("/"),
            {"Authorization": f"Bearer {key}"} if key else {},
            timeout_s=timeout_s,
            max_retries=max_retries,
            max_connections=MAX_CONNECTIONS,
        )
        honoured = {*STANDARD, "top_logprobs", *(["json_schema"] if self.is_chat else [])}
        self.capabilities = Capabilities(
            completes=not self.is_chat,
            chats=self.is_chat,
            continues_turn=self.is_chat and continues_turn,
            logprobs=True,
            tools=self.is_chat,
            echoes=not self.is_chat,
            sampling=frozenset(honoured),
        )

    async def generate(self, request: TextRequest) -> Reply:
        path, body = self._asked(request)
        answer = await self.transport.json("POST", path, body)
        collected = _Collected(request)
        collected.add(answer)
        return collected.reply()

    async def stream(self, request: TextRequest) -> AsyncIterator[Delta | Reply]:
        path, body = self._asked(request)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        collected = _Collected(request)
        async with aclosing(self.transport.events(path, body)) as events:
            async for event in events:
                for delta in collected.add(event):
                    yield delta
        yield collected.reply()

    async def encode(self, prompt: Prompt) -> tuple[int, ...]:
        self._no_tokens()

    async def decode(self, token_ids: Sequence[int]) -> str:
        self._no_tokens()

    async def score(
        self, prefix: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> tuple[list[tuple[float, ...]], Spent]:
        self._no_tokens()

    async def echo(self, text: str) -> Echo:
        """The text's own tokens. Needs `echoes`; an endpoint that cannot refuses the fields."""
        body = {"model": self.model_name, "prompt": text, "max_tokens": 0, "temperature": 0}
        body |= {"echo": True, "logprobs": 1}
        answer = await self.transport.json("POST", "/completions", body)
        usage = answer.get("usage") or {}
        details = usage.get("prompt_tokens_details") or {}
        counts = (usage.get("prompt_tokens") or 0, details.get("cached_tokens") or 0)
        try:
            told = answer["choices"][0]["logprobs"]
            return Echo(tuple(told["tokens"]), tuple(told["token_logprobs"]), Spent(1, *counts))
        except (KeyError, TypeError, IndexError) as error:
            raise BackendError(
                f"{self.model_name} echoed no log-probabilities ({error!r}); select needs them."
            ) from error

    async def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        is_open: bool = False,
        add_generation_prompt: bool = False,
    ) -> str:
        raise NotSupported(f"{self.model_name} does not tell its chat template.")

    async def prepare(self, prompt: Prompt) -> Spent:
        """Such an endpoint cannot be told what comes."""
        return Spent()

    async def flush(self) -> None:
        raise NotSupported(f"{self.model_name} has no prefix cache that could be emptied.")

    async def describe(self) -> Mapping[str, Any]:
        return await self.transport.json("GET", "/models")

    async def aclose(self) -> None:
        await self.transport.aclose()

    def close(self) -> None:
        """Close the connections of plain runs."""
        blocking(self.aclose())

    # -- internals ---------------------------------------------------------------

    def _asked(self, request: TextRequest) -> tuple[str, dict[str, Any]]:
        """Raises NotSupported for what the body has no field for."""
        check(request.sampling, self.capabilities)
        lost = [n for n in ("adapter", "priority", "cache_salt") if getattr(request, n)]
        if lost:
            raise NotSupported(f"an OpenAI endpoint has no field for {', '.join(lost)}; unset it.")
        sampling = request.sampling
        body: dict[str, Any] = {to: getattr(sampling, name) for name, to in STANDARD.items()}
        body["stop"] = list(sampling.stop) or None
        body["logit_bias"] = {str(id): b for id, b in sampling.logit_bias.items()} or None
        if request.tenant != "default":
            body["user"] = request.tenant
        body["model"] = self.model_name
        path = "/chat/completions" if self.is_chat else "/completions"
        body |= self._chat(request) if self.is_chat else _completion(request)
        return path, {name: value for name, value in body.items() if value is not None}

    def _chat(self, request: TextRequest) -> dict[str, Any]:
        prompt, sampling = request.prompt, request.sampling
        found: dict[str, Any] = {"messages": [_sent(one) for one in prompt.messages]}
        if prompt.is_open:
            found |= {"continue_final_message": True, "add_generation_prompt": False}
        if request.wants_logprobs or sampling.top_logprobs:
            found |= {"logprobs": True, "top_logprobs": sampling.top_logprobs or None}
        if sampling.json_schema:
            schema = {"name": "answer", "schema": json.loads(sampling.json_schema), "strict": True}
            found["response_format"] = {"type": "json_schema", "json_schema": schema}
        if request.tools:
            choice: Any = request.tool_choice
            if choice not in ("none", "auto", "required"):
                choice = {"type": "function", "function": {"name": choice}}
            found |= {"tools": list(request.tools), "tool_choice": choice}
        return found

    def _no_tokens(self) -> NoReturn:
        raise NotSupported(f"{self.model_name} tells no tokens; use an Engine or RuntimeEndpoint.")


# -- internals ---------------------------------------------------------------


def _completion(request: TextRequest) -> dict[str, Any]:
    if request.tools:
        raise NotSupported("an endpoint that completes text has no tools; leave them out.")
    wants = request.wants_logprobs or request.sampling.top_logprobs
    return {
        "prompt": request.prompt.text,
        "logprobs": max(1, request.sampling.top_logprobs) if wants else None,
    }


def _sent(message: Message) -> dict[str, Any]:
    """Arguments of calls are JSON text on the wire."""
    sent: dict[str, Any] = dict(message)
    for call in sent.get("tool_calls", ()):
        arguments = call["function"]["arguments"]
        if not isinstance(arguments, str):
            call["function"] = {**call["function"], "arguments": json.dumps(arguments)}
    return sent


@dataclass(slots=True)
class _Choice:
    text: str = ""
    logprobs: list[float] = field(default_factory=list)
    finish: str | None = None
    calls: dict[int, list[str]] = field(default_factory=dict)  # id, name, arguments


class _Collected:
    """An answer, whole or in chunks."""

    def __init__(self, request: TextRequest) -> None:
        self._request = request
        self._choices = [_Choice() for _ in range(request.sampling.n)]
        self._usage: Mapping[str, Any] = {}

    def add(self, chunk: Mapping[str, Any]) -> list[Delta]:
        """Raises what the chunk carries, BackendError for what is no answer."""
        if chunk.get("error"):
            raise failure(chunk, 500)
        self._usage = chunk.get("usage") or self._usage
        try:
            deltas = [self._add(part) for part in chunk.get("choices") or ()]
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            text = f"the endpoint's answer has no valid {error}: {str(chunk)[:200]}"
            raise BackendError(text) from error
        return [delta for delta in deltas if delta.text]

    def reply(self) -> Reply:
        """Raises BackendError when a choice never ended."""
        for index, choice in enumerate(self._choices):
            if choice.finish is None:
                raise BackendError(f"the endpoint's answer ended before choice {index} did.")
        details = self._usage.get("prompt_tokens_details") or {}
        spent = Spent(
            1,
            self._usage.get("prompt_tokens") or 0,
            details.get("cached_tokens") or 0,
            self._usage.get("completion_tokens") or 0,
        )
        outputs = tuple(self._output(i, choice, spent) for i, choice in enumerate(self._choices))
        calls = tuple(
            tuple(ToolCall(*parts) for _, parts in sorted(choice.calls.items()))
            for choice in self._choices
        )
        return Reply(outputs, spent, calls if self._request.tools else ())

    def _add(self, part: Mapping[str, Any]) -> Delta:
        index = part["index"]
        choice = self._choices[index]
        body = part.get("message") or part.get("delta") or {}
        text = part.get("text") or body.get("content") or ""
        told = part.get("logprobs") or {}
        new = [entry["logprob"] for entry in told.get("content") or ()]
        new += [value for value in told.get("token_logprobs") or () if value is not None]
        choice.text += text
        choice.logprobs += new
        choice.finish = part.get("finish_reason") or choice.finish
        for place, call in enumerate(body.get("tool_calls") or ()):
            known = choice.calls.setdefault(call.get("index", place), ["", "", ""])
            function = call.get("function") or {}
            known[0] = call.get("id") or known[0]
            known[1] += function.get("name") or ""
            known[2] += function.get("arguments") or ""
        return Delta(index, text, (), tuple(new))

    def _output(self, index: int, choice: _Choice, spent: Spent) -> Output:
        assert choice.finish is not None
        return Output(
            text=choice.text,
            token_ids=(),
            logprobs=tuple(choice.logprobs) if self._request.wants_logprobs else (),
            finish_reason=REASONS.get(choice.finish, FinishReason.STOP),
            cached_tokens=spent.cached_tokens,
            weight_version=0,
            prompt_tokens=spent.prompt_tokens,
            index=index,
            request_id=self._request.id,
        )
