"""The client's side of the wire: requests into bodies, answers into outputs. No I/O.

payload(request, model, dialect) -> body of POST /v1/completions
outputs(answer, request, ...) -> list[Output]
StreamReader.push(chunk) -> deltas
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

from evolute.lang.endpoints.transport import failure
from evolute.types import (
    BackendError,
    ConfigError,
    Delta,
    FinishReason,
    GenerateRequest,
    NotSupported,
    Output,
    SamplingParams,
    Tokenizer,
    TopLogprob,
    VersionSegment,
)

# setting of SamplingParams -> field of the body
STANDARD = {
    "max_new_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "logit_bias": "logit_bias",
    "seed": "seed",
    "n": "n",
    "stop": "stop",
    "top_logprobs": "logprobs",
}
OURS = {
    "min_new_tokens": "min_tokens",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "stop_token_ids": "stop_token_ids",
    "ignore_eos": "ignore_eos",
    "include_stop": "include_stop",
    "skip_special_tokens": "skip_special_tokens",
    "prompt_logprobs": "prompt_logprobs",
    "json_schema": "json_schema",
    "regex": "regex",
    "lark": "lark",
    "ebnf": "ebnf",
    "stop_regex": "stop_regex",
}
PLAIN = SamplingParams()


class Dialect(StrEnum):
    EVOLUTE = "evolute"
    OPENAI = "openai"  # any other endpoint


def payload(request: GenerateRequest, model: str, dialect: Dialect) -> dict[str, Any]:
    """Raises NotSupported when another endpoint has no field for a setting in use. A session is a
    hint where to go, which another endpoint is not told."""
    settings = {f.name: getattr(request.sampling, f.name) for f in dataclasses.fields(PLAIN)}
    changed = {name: v for name, v in settings.items() if v != getattr(PLAIN, name)}
    body = {field: settings[name] for name, field in STANDARD.items()}
    body["stop"] = list(body["stop"]) or None
    body["logit_bias"] = {str(id): v for id, v in body["logit_bias"].items()} or None
    body |= {"model": model, "prompt": list(request.prompt)}
    if dialect is Dialect.EVOLUTE:
        lost = sorted(changed.keys() - STANDARD.keys() - OURS.keys())
        if lost:
            raise NotSupported(
                f"/v1/completions has no field for {', '.join(lost)}; unset it, or call /generate."
            )
        own = {OURS[name]: v for name, v in changed.items() if name in OURS}
        body |= {field: list(v) if isinstance(v, tuple) else v for field, v in own.items()}
        body |= {"return_token_ids": True, "user": request.tenant}
        if request.cache_salt:
            body["cache_salt"] = request.cache_salt
        if request.priority:
            body["priority"] = request.priority
        if request.session:
            body["prompt_cache_key"] = request.session
        if request.deadline_s is not None:
            body["deadline_s"] = request.deadline_s
        if request.adapter:
            body["model"] = f"{model.partition(':')[0]}:{request.adapter}"
        return body
    foreign = sorted(name for name in changed if name not in STANDARD or name == "top_logprobs")
    foreign += [n for n in ("cache_salt", "priority", "deadline_s") if getattr(request, n)]
    if foreign:
        raise NotSupported(f"an OpenAI endpoint has no field for {', '.join(foreign)}; unset it.")
    body["model"] = request.adapter or model
    return {field: value for field, value in body.items() if value is not None}


def outputs(
    answer: Mapping[str, Any],
    request: GenerateRequest,
    dialect: Dialect,
    tokenizer: Tokenizer | None,
) -> list[Output]:
    """Raises BackendError when the answer lacks what an answer has."""
    reader = StreamReader(request, dialect, tokenizer)
    deltas = [*reader.push(answer), *reader.finish()]
    return sorted((d.output for d in deltas if d.output), key=lambda output: output.index)


@dataclasses.dataclass(slots=True)
class _Choice:
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    top: tuple[tuple[TopLogprob, ...], ...] = ()
    versions: tuple[VersionSegment, ...] = ()
    prompt_logprobs: tuple[float | None, ...] = ()
    finish_reason: FinishReason | None = None
    matched_stop: str | int | None = None


class StreamReader:
    """Collects chunks (or one whole answer) into deltas; outputs come when all is known."""

    def __init__(
        self, request: GenerateRequest, dialect: Dialect, tokenizer: Tokenizer | None
    ) -> None:
        self._request = request
        self._is_ours = dialect is Dialect.EVOLUTE
        self._tokenizer = tokenizer
        self._choices = {index: _Choice() for index in range(request.sampling.n)}
        self._usage: Mapping[str, Any] = {}

    def push(self, chunk: Mapping[str, Any]) -> Iterator[Delta]:
        """Raises the error that the chunk carries, if it is one."""
        if "error" in chunk:
            raise failure(chunk, 500)
        self._usage = chunk.get("usage") or self._usage
        try:
            for part in chunk["choices"]:
                yield from self._add(part)
        except ConfigError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            text = f"the endpoint's answer has no valid {error}: {str(chunk)[:200]}"
            raise BackendError(text) from error

    def finish(self) -> Iterator[Delta]:
        """The outputs, each on a last empty delta. Raises BackendError when one never ended."""
        details = self._usage.get("prompt_tokens_details") or {}
        for index, choice in self._choices.items():
            if choice.finish_reason is None:
                raise BackendError(f"the endpoint's answer ended before choice {index} did.")
            output = Output(
                text=choice.text,
                token_ids=choice.token_ids,
                logprobs=choice.logprobs,
                finish_reason=choice.finish_reason,
                cached_tokens=details.get("cached_tokens") or 0,
                weight_version=choice.versions[-1].version if choice.versions else 0,
                prompt_tokens=self._usage.get("prompt_tokens") or len(self._request.prompt),
                weight_versions=choice.versions,
                top_logprobs=choice.top,
                prompt_logprobs=choice.prompt_logprobs,
                matched_stop=choice.matched_stop,
                index=index,
                request_id=self._request.id,
            )
            yield Delta(index, "", (), (), output=output)

    def _add(self, part: Mapping[str, Any]) -> Iterator[Delta]:
        choice = self._choices[part["index"]]
        text, ids, values, top = part["text"], *self._tokens(part)
        choice.text += text
        choice.token_ids += ids
        choice.logprobs += values
        choice.top += top
        choice.versions += tuple(VersionSegment(*v) for v in part.get("weight_versions") or ())
        choice.prompt_logprobs += tuple(part.get("prompt_logprobs") or ())
        if part.get("finish_reason"):
            choice.finish_reason = _finish_reason(part["finish_reason"])
            choice.matched_stop = part.get("matched_stop")
        if text or ids:
            yield Delta(part["index"], text, ids, values, top)

    def _tokens(
        self, part: Mapping[str, Any]
    ) -> tuple[tuple[int, ...], tuple[float, ...], tuple[tuple[TopLogprob, ...], ...]]:
        if self._is_ours:
            ranked = part.get("top_token_logprobs") or ()
            top = tuple(tuple(TopLogprob(*pair) for pair in pairs) for pairs in ranked)
            ids = tuple(part.get("token_ids") or ())
            return ids, tuple(part.get("token_logprobs") or ()), top
        return *self._found_tokens(part), ()

    def _found_tokens(self, part: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Ids by our tokenizer; log-probabilities only where its tokens are the endpoint's."""
        if self._tokenizer is None:
            raise ConfigError("this endpoint reports no token ids; give HttpBackend a tokenizer=.")
        reported = part.get("logprobs") or {}
        each = [self._tokenizer.encode(token) for token in reported.get("tokens") or ()]
        if each and all(len(ids) == 1 for ids in each):
            return tuple(ids[0] for ids in each), tuple(reported["token_logprobs"])
        ids = tuple(self._tokenizer.encode(part["text"]))
        return ids, (float("nan"),) * len(ids)


def _finish_reason(text: str) -> FinishReason:
    return FinishReason(text) if text in set(FinishReason) else FinishReason.STOP
