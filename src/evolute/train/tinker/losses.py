"""Which of the trainer's losses does a request name, and with which settings?

spec_of("ppo", {"clip_low_threshold": 0.8}) -> LossSpec        raises RequestError
spec.losses(logprobs, tokens) -> loss of each token, to be summed

Thresholds are of the ratio itself, as the client writes them: 0.8 and 1.2 where the trainer says
clip_low = clip_high = 0.2. `dro` (-A logp + beta/2 (logp - old)^2) is this service's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from evolute.train.algorithms import LOSSES, LossConfig, LossTokens
from evolute.types import ConfigError, RequestError
from evolute.types.settings import nearest

THRESHOLDS = ("clip_low_threshold", "clip_high_threshold")
OURS = {  # name in a request -> name in LOSSES, thresholds of the ratio when none are given
    "cross_entropy": ("cross_entropy", None),
    "importance_sampling": ("importance_sampling", None),
    "ppo": ("clipped", (0.8, 1.2)),
    "cispo": ("cispo", (0.8, 1.2)),
    "gspo": ("gspo", (1 - 3e-4, 1 + 4e-4)),
    "dual_clip": ("dual_clip", (0.8, 1.2)),
    "dppo": ("dppo", None),
    "rollout_is": ("rollout_is", (0.8, 1.2)),
    "sapo": ("sapo", None),
}
DRO_BETA = 0.05
NAMES = (*OURS, "dro")
REFUSED = {
    "custom": "losses traced on the client run there: leave custom_loss_server_side off, and "
    "forward_backward_custom works",
    "stable_reinforce": "it needs data that the sampler does not record; use importance_sampling, "
    "ppo, cispo or dppo",
}


@dataclass(frozen=True, slots=True)
class LossSpec:
    """A loss with its settings. Two requests with equal ones may share a pass."""

    name: str
    config: LossConfig = LossConfig("cross_entropy")  # noqa: RUF009
    beta: float = 0.0  # dro

    @property
    def coefficient(self) -> str:
        """The input that a token needs to be trained at all."""
        return "weights" if self.name == "cross_entropy" else "advantages"

    def losses(self, tokens: LossTokens) -> Tensor:
        """Of each token; only `tokens.logprobs` has a gradient."""
        if self.name == "dro":
            pull = 0.5 * self.beta * (tokens.logprobs - tokens.old).square()
            return pull * tokens.weights - tokens.logprobs * tokens.advantages
        return LOSSES[self.config.name].function(tokens, self.config)


def spec_of(name: str, config: Mapping[str, Any] | None) -> LossSpec:
    """Raises RequestError for an unknown loss, an unknown setting, or a value that cannot be."""
    values = dict(config or {})
    if name in REFUSED:
        raise RequestError(f"loss_fn {name!r} is not supported: {REFUSED[name]}.")
    if name not in NAMES:
        raise RequestError(f"no loss_fn {name!r}. {nearest(name, NAMES)}")
    if name == "dro":
        beta = _number(values.pop("beta", DRO_BETA), "beta", 0.0)
        _nothing_left(name, values, ("beta",))
        return LossSpec(name, beta=beta)
    ours, thresholds = OURS[name]
    settings: dict[str, Any] = {}
    if thresholds:
        low, high = (
            _number(values.pop(key, default), key, 0.0)
            for key, default in zip(THRESHOLDS, thresholds)
        )
        if not low <= 1 <= high:
            raise RequestError(
                f"{THRESHOLDS[0]} is {low} and {THRESHOLDS[1]} is {high}; they bound the ratio, so "
                "the first is at most 1 and the second at least 1, as 0.8 and 1.2."
            )
        settings |= {"clip_low": 1 - low, "clip_high": high - 1}
    reads = set(LOSSES[ours].reads) | ({"clip_low", "clip_high"} if name == "dppo" else set())
    settings |= {key: values.pop(key) for key in list(values) if key in reads}
    _nothing_left(name, values, (*(THRESHOLDS if thresholds else ()), *sorted(reads)))
    return LossSpec(name, _made(ours, settings))


# -- internals ---------------------------------------------------------------


def _made(name: str, settings: dict[str, Any]) -> LossConfig:
    for key, value in settings.items():
        if key == "divergence":
            if value not in ("tv", "kl"):
                raise RequestError(f"divergence is {value!r}; use 'tv' or 'kl'.")
        else:
            settings[key] = _number(value, key, 0.0)
    try:
        return LossConfig(name, **settings)
    except ConfigError as error:
        raise RequestError(str(error)) from None


def _number(value: Any, key: str, low: float) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or value < low:
        raise RequestError(f"{key} is {value!r}; it must be a number of at least {low:g}.")
    return float(value)


def _nothing_left(name: str, values: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in values:
        hint = nearest(key, known) if known else "It has no settings."
        raise RequestError(f"loss_fn_config has {key!r}, which {name} does not read. {hint}")
