"""S-LoRA's synthetic load: skewed adapters, uniform lengths, one Gamma process of arrivals.

    gamma_trace(num_adapters, rate, seconds, ranks=..., skew=1, cv=1) -> requests

The draws are those of the workload (`bench/shapes/slora.py`), so the same seed is the same trace.
"""

from __future__ import annotations

from dataclasses import dataclass

from evolute.bench.shapes.slora import SEED, trace


@dataclass(slots=True, eq=False)
class Request:
    """One request; times in seconds. `made` tokens so far, once it runs."""

    arrival_s: float
    adapter: int  # -1: the base
    rank: int
    prompt: int
    output: int
    made: int = 0
    passed_over: int = 0
    first_token_s: float | None = None  # after its arrival
    latency_s: float | None = None

    @property
    def context(self) -> int:
        return self.prompt + self.made

    @property
    def remaining(self) -> int:
        return self.output - self.made

    @property
    def area(self) -> float:
        """Tokens of keys times steps that it will occupy."""
        return self.output * (self.prompt + self.output / 2)


def gamma_trace(
    num_adapters: int,
    rate: float,
    seconds: float,
    *,
    ranks: tuple[int, ...] = (8,),
    skew: float = 1.0,
    cv: float = 1.0,
    seed: int = SEED,
) -> list[Request]:
    """`cv` is the coefficient of variation of the gaps; no adapters: all go to the base."""
    made = trace(num_adapters, rate, seconds, alpha=skew, cv=cv, seed=seed)
    return [
        Request(
            arrival,
            adapter if num_adapters else -1,
            ranks[adapter % len(ranks)] if num_adapters else 0,
            prompt,
            output,
        )
        for arrival, adapter, prompt, output in zip(
            made.arrival_s, made.adapters, made.num_prompt, made.num_new
        )
    ]
