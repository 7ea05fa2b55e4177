"""How the next token is chosen: the settings of one request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evolute.types.errors import RequestError

MAX_STOPS = 32
MAX_TOP_LOGPROBS = 128


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling settings, checked when made. `temperature=0` is greedy.

    Log-probabilities are those of the model at this temperature (1.0 when greedy), before
    penalties, `logit_bias`, grammar masks and top-k / top-p / min-p truncation. At most one of
    `json_schema`, `regex`, `lark` may be set.
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
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop: bool = False  # keep the matched stop string in the text
    skip_special_tokens: bool = True
    top_logprobs: int = 0  # alternatives reported per output token
    prompt_logprobs: bool = False  # log-probability of each prompt token but the first
    json_schema: str | None = None
    regex: str | None = None
    lark: str | None = None

    def __post_init__(self) -> None:
        _at_least("max_new_tokens", self.max_new_tokens, 0)
        _at_least("min_new_tokens", self.min_new_tokens, 0)
        _at_least("top_k", self.top_k, 0)
        _at_least("n", self.n, 1)
        _within("temperature", self.temperature, 0.0, 100.0)
        _within("top_p", self.top_p, 0.0, 1.0, low_open=True)
        _within("min_p", self.min_p, 0.0, 1.0)
        _within("repetition_penalty", self.repetition_penalty, 0.0, 2.0, low_open=True)
        _within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _within("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _within("top_logprobs", self.top_logprobs, 0, MAX_TOP_LOGPROBS)
        if len(self.stop) > MAX_STOPS:
            raise RequestError(f"{len(self.stop)} stop strings; at most {MAX_STOPS} are allowed.")
        if any(not stop for stop in self.stop):
            raise RequestError("an empty stop string would stop at once; remove it from `stop`.")
        grammars = [name for name in ("json_schema", "regex", "lark") if getattr(self, name)]
        if len(grammars) > 1:
            raise RequestError(f"{' and '.join(grammars)} exclude one another; keep one of them.")

    @property
    def is_greedy(self) -> bool:
        return self.temperature < 1e-6 or self.top_k == 1

    @property
    def is_constrained(self) -> bool:
        return bool(self.json_schema or self.regex or self.lark)


def _at_least(name: str, value: int, low: int) -> None:
    if value < low:
        raise RequestError(f"{name} is {value}; it must be at least {low}.")


def _within(name: str, value: float, low: float, high: float, *, low_open: bool = False) -> None:
    below = value <= low if low_open else value < low
    if below or not value <= high:  # `not <=` also catches NaN
        edge = "(" if low_open else "["
        raise RequestError(f"{name} is {value}; it must lie in {edge}{low}, {high}].")
