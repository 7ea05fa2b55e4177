"""What is asked of a model, and what comes back."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, NotRequired, TypedDict

from evolute.types.sampling import SamplingParams

MAX_DEADLINE_S = 86_400.0
_ids = itertools.count()


class Message(TypedDict):
    """One turn of a chat. `tool_calls` are an assistant's, the other two fields a tool's.

    A call is {"id", "type": "function", "function": {"name", "arguments": {...}}}.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: NotRequired[list[dict[str, Any]]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]


class FinishReason(StrEnum):
    STOP = "stop"  # end of sequence, a stop string or token, or a finished grammar
    LENGTH = "length"  # max_new_tokens or the end of the context
    ABORT = "abort"  # cancelled by the client or the operator
    DEADLINE = (
        "deadline"  # its first token would have come too late; `Output.error` has the numbers
    )
    ERROR = "error"  # the engine failed; `Output.error` says why


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One prompt to be completed `sampling.n` times."""

    prompt: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    adapter: str | None = None
    tenant: str = "default"  # who is billed for fairness
    priority: int = 0  # higher goes first; only under engine.policy = "priority"
    # seconds from its arrival to its first token, else it is ended with finish reason `deadline`;
    # 0: it may wait; None: what engine.first_token_deadline_s says
    deadline_s: float | None = None
    session: str = ""  # of one talk; several engines may keep its requests together
    cache_salt: str = ""  # requests with different salts never share cached pages
    id: str = field(default_factory=lambda: f"req-{next(_ids)}")


@dataclass(frozen=True, slots=True)
class TopLogprob:
    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Output:
    """One completion.

    Invariants: len(logprobs) == len(token_ids); the `num_tokens` of `weight_versions` sum to
    len(token_ids). The end-of-sequence token, when sampled, is the last of `token_ids` and is
    not in `text`. What is told of the prompt begins at `prompt_logprobs_from`; its first entry is
    None or empty, as nothing predicts it.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    cached_tokens: int  # prompt tokens whose keys and values were reused
    weight_version: int  # of the last token
    prompt_tokens: int = 0
    weight_versions: tuple[VersionSegment, ...] = ()
    top_logprobs: tuple[tuple[TopLogprob, ...], ...] = ()  # per output token, when asked for
    id_logprobs: tuple[tuple[float, ...], ...] = ()  # of `logprob_token_ids`, per output token
    prompt_logprobs: tuple[float | None, ...] = ()  # per prompt token, first None
    prompt_top_logprobs: tuple[tuple[TopLogprob, ...], ...] = ()  # per prompt token
    prompt_id_logprobs: tuple[tuple[float, ...], ...] = ()  # of `logprob_token_ids`, likewise
    matched_stop: str | int | None = None  # stop string or token id that ended it
    # the leading tokens that are a beginning of `text`, and how many characters they are: what ends
    # an answer is no part of its text; None: not told
    text_prefix: tuple[int, int] | None = None
    index: int = 0  # which of the n
    request_id: str = ""
    error: str | None = None
    # after finish reason `error`: the request's own doing, such as a grammar that grows too large
    is_refused: bool = False
    retry_after_s: float | None = None  # after finish reason `deadline`
    num_preemptions: int = 0


@dataclass(frozen=True, slots=True)
class VersionSegment:
    """A run of output tokens that one version of the weights sampled."""

    version: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a streamed completion. The last one of an index carries `output`."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    top_logprobs: tuple[tuple[TopLogprob, ...], ...] = ()
    output: Output | None = None
    id_logprobs: tuple[tuple[float, ...], ...] = ()
    cached_tokens: int = 0
    weight_version: int = 0  # of the tokens
