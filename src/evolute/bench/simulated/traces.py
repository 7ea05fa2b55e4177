"""S-LoRA's synthetic load: skewed adapters, uniform lengths, one Gamma process of arrivals.

    gamma_trace(num_adapters, rate, seconds, ranks=..., skew=1, cv=1) -> requests

Draws in the order of the artifact's generator (numpy's old RandomState), so that the same seed is
the same trace: adapters by a power law (1: uniform), prompts, outputs, gaps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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
    lengths: tuple[int, int] = (8, 512),
    seed: int = 42,
) -> list[Request]:
    """`cv` is the coefficient of variation of the gaps; no adapters: all go to the base."""
    dice = np.random.RandomState(seed)
    count = int(rate * seconds)
    adapters = (dice.power(skew, count) * num_adapters).astype(int)
    prompts = dice.randint(*lengths, count)
    outputs = dice.randint(*lengths, count)
    arrivals = np.cumsum(dice.gamma(1 / cv**2, cv**2 / rate, count))
    return [
        Request(
            float(arrival),
            int(adapter) if num_adapters else -1,
            ranks[adapter % len(ranks)] if num_adapters else 0,
            int(prompt),
            int(output),
        )
        for arrival, adapter, prompt, output in zip(arrivals, adapters, prompts, outputs)
    ]
