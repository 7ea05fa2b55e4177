"""Settings of the thought buffer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from evolute.envs.sandbox.contract import SandboxLimits
from evolute.types import ConfigError


@dataclass(frozen=True, slots=True)
class ThoughtConfig:
    """Two thresholds, since "like enough to use" and "new enough to add" are different questions.

    Raises ConfigError when made. `use_above` of MiniLM is calibrated in docs/lab.md; with another
    embedder calibrate anew (`evolute bench thoughts` prints the curve).
    """

    path: str = "thoughts.db"
    use_above: float = 0.45  # cosine from which a template is used
    new_below: float = 0.6  # cosine below which a solution is new
    weight: float = 0.2  # of a template's expected success beside its cosine
    attempts: int = 3  # templates tried, or tries of a coarse one
    grow: bool = True
    seeds: Literal["none", "skeletons", "programs"] = "none"
    distiller: Literal["rules", "model"] = "rules"
    max_new_tokens: int = 512
    temperature: float = 0.0
    packages: tuple[str, ...] = ()  # importable in programs, e.g. chess
    embed_url: str = ""  # "": MiniLM on this machine
    embed_model: str = ""
    limits: SandboxLimits = field(default_factory=SandboxLimits)

    def __post_init__(self) -> None:
        for name in ("use_above", "new_below"):
            value = getattr(self, name)
            if not -1 <= value <= 1:
                raise ConfigError(f"{name} is {value}; a cosine lies in [-1, 1].")
        if not 0 <= self.weight <= 1:
            raise ConfigError(f"weight is {self.weight}; it must lie in [0, 1].")
        if self.attempts < 1:
            raise ConfigError(f"attempts is {self.attempts}; it must be at least 1.")
        if bool(self.embed_url) != bool(self.embed_model):
            raise ConfigError("embed_url and embed_model go together; give both or none.")
