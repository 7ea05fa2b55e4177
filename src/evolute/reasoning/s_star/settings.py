"""Settings of S* and of the policies it is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from evolute.envs.sandbox.contract import SandboxLimits
from evolute.types import ConfigError

Selector = Literal[
    "first", "random", "fast", "majority", "public", "public_majority", "generated_tests",
    "judge", "s_star", "s_star_plus",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class SStarConfig:
    """Defaults are the paper's (arXiv 2502.14382, section 4) where it has them."""

    samples: int = 16  # threads that write a program each
    rounds: int = 2  # repairs after the first attempt
    temperature: float = 0.7
    max_new_tokens: int = 512  # of an answer; a judge needs fewer
    selector: Selector = "s_star"
    public_filter: bool = True  # choose among those that pass the most public tests
    inputs: int = 5  # asked about for each pair of clusters (s_star: the most telling one)
    fuzz: bool = True  # inputs without a model first; False: only those the model proposes
    judge: Literal["asked", "likelihood"] = "asked"  # likelihood: how probable each side is
    judge_swap: bool = True  # ask twice, in both orders; what depends on the order is a tie
    judge_accuracy: float = 0.75  # as `calibrate` measured it; weighs votes in s_star_plus
    judge_at_least: float = 0.55  # below it the judge is not asked
    size_prior: float = 0.0  # of a cluster's log-size, in s_star_plus
    # complete: models that only go on; body: such as would rather talk of the function than write
    # it, so the prompt has begun its body
    style: Literal["chat", "complete", "body"] = "chat"
    seed: int = 0
    records: str = ""  # a JSONL file of candidates: written, and read instead of sampling again
    limits: SandboxLimits = field(default_factory=SandboxLimits)

    def __post_init__(self) -> None:
        for name, least in (("samples", 1), ("rounds", 0), ("inputs", 1), ("max_new_tokens", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be {least} or more.")
        if not 0 <= self.temperature <= 2:
            raise ConfigError(f"temperature is {self.temperature}; it must lie in 0 ... 2.")
        for name in ("judge_accuracy", "judge_at_least"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1.")
        if self.judge == "likelihood" and not self.judge_swap:
            raise ConfigError(
                "judge_swap = false does nothing with judge = 'likelihood': nothing is asked, so "
                "there is no order; drop it."
            )
        if not self.size_prior >= 0:
            raise ConfigError(f"size_prior is {self.size_prior}; it must be 0 or more.")
