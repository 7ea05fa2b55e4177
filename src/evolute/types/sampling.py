"""How the next token is chosen: the settings of one request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evolute.types.errors import RequestError

MAX_STOPS = 32
MAX_STOP_CHARS = 1024
MAX_STOP_REGEX_CHARS = 256
MAX_LOGPROB_IDS = 4096
MAX_INT32 = 2**31 - 1
MAX_TOP_LOGPROBS = 128
GRAMMARS = ("json_schema", "regex", "lark", "ebnf")


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling settings, checked when made. `temperature=0` is greedy.

    Log-probabilities are those of the model at this temperature (1.0 when greedy), before
    penalties, `logit_bias`, grammar masks and top-k / top-p / min-p truncation. At most one of
    `json_schema`, `regex`, `lark`, `ebnf` may be set.
    """

    max_new_tokens: int = 128
    min_new_tokens: int = 0  # end-of-sequence and stop token ids are barred before this
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    min_p: float = 0.0
    repetition_penalty: float = 1.0  # multiplicative, over prompt and output
    frequency_penalty: float = 0.0  # additive per occurrence, over output
    presence_penalty: float = 0.0  # additive once, over output
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None  # None: drawn by the engine, and returned by no one
    n: int = 1
    stop: tuple[str, ...] = ()
    stop_regex: tuple[str, ...] = ()  # the match that is complete first ends the text
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop: bool = False  # keep what was matched (string, regex, token) in the text
    skip_special_tokens: bool = True
    top_logprobs: int = 0  # alternatives reported per output token
    logprob_token_ids: tuple[int, ...] = ()  # ids whose log-probability is told at each position
    prompt_logprobs: bool = False  # log-probability of each prompt token but the first
    prompt_logprobs_from: int = 0  # place of that first one; what lies before may be cached
    prompt_top_logprobs: int = 0  # alternatives reported per prompt token
    json_schema: str | None = None
    regex: str | None = None
    lark: str | None = None
    ebnf: str | None = None  # in the dialect of GBNF

    def __post_init__(self) -> None:
        _at_least("max_new_tokens", self.max_new_tokens, 0)
        _at_least("min_new_tokens", self.min_new_tokens, 0)
        _within("top_k", self.top_k, 0, MAX_INT32)
        _at_least("prompt_logprobs_from", self.prompt_logprobs_from, 0)
        _at_least("n", self.n, 1)
        _within("temperature", self.temperature, 0.0, 100.0)
        _within("top_p", self.top_p, 0.0, 1.0, low_open=True)
        _within("min_p", self.min_p, 0.0, 1.0)
        _within("repetition_penalty", self.repetition_penalty, 0.0, 2.0, low_open=True)
        _within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _within("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _within("top_logprobs", self.top_logprobs, 0, MAX_TOP_LOGPROBS)
        _within("prompt_top_logprobs", self.prompt_top_logprobs, 0, MAX_TOP_LOGPROBS)
        _texts("stop", self.stop, MAX_STOP_CHARS)
        _texts("stop_regex", self.stop_regex, MAX_STOP_REGEX_CHARS)
        _within("the number of logprob_token_ids", len(self.logprob_token_ids), 0, MAX_LOGPROB_IDS)
        grammars = [name for name in GRAMMARS if getattr(self, name)]
        if len(grammars) > 1:
            raise RequestError(f"{' and '.join(grammars)} exclude one another; keep one of them.")

    @property
    def is_greedy(self) -> bool:
        return self.temperature < 1e-6 or self.top_k == 1

    @property
    def is_constrained(self) -> bool:
        return any(getattr(self, name) for name in GRAMMARS)


def _texts(name: str, texts: tuple[str, ...], max_chars: int) -> None:
    if len(texts) > MAX_STOPS:
        raise RequestError(
            f"{name} holds {len(texts)} stop strings; at most {MAX_STOPS} are allowed."
        )
    if any(not text for text in texts):
        raise RequestError(f"an empty stop would end the text at once; remove it from `{name}`.")
    longest = max(map(len, texts), default=0)
    if longest > max_chars:
        raise RequestError(f"{name} holds {longest} characters; at most {max_chars} are allowed.")


def _at_least(name: str, value: int, low: int) -> None:
    if value < low:
        raise RequestError(f"{name} is {value}; it must be at least {low}.")


def _within(name: str, value: float, low: float, high: float, *, low_open: bool = False) -> None:
    below = value <= low if low_open else value < low
    if below or not value <= high:  # `not <=` also catches NaN
        edge = "(" if low_open else "["
        raise RequestError(f"{name} is {value}; it must lie in {edge}{low}, {high}].")
