"""What does one simulated rollout need, and how does it use the machines?

draw_work(config, seed) -> [Work]                 the same for every schedule
SimulatedLifecycle(work, gpu, cpu)                a `Lifecycle` for the dispatcher
"""

from __future__ import annotations

import asyncio
import math
import random
from dataclasses import dataclass

from evolute.agents.simulation.machines import SharedMachine
from evolute.agents.simulation.settings import WorkConfig
from evolute.types import SandboxError


@dataclass(frozen=True, slots=True)
class Work:
    """Seconds of one CPU slot, tokens and tool seconds of each turn, and which tries fail."""

    init_s: float
    eval_s: float
    turns: tuple[tuple[float, float], ...]  # tokens, tool seconds
    init_failures: int = 0  # tries that fail before one works
    eval_failures: int = 0

    @property
    def tokens(self) -> float:
        return sum(tokens for tokens, _ in self.turns)

    def run_s(self, request_tokens_per_s: float) -> float:
        """Of its turns with the machine to itself."""
        return sum(tokens / request_tokens_per_s + tool_s for tokens, tool_s in self.turns)


def draw_work(config: WorkConfig, seed: int) -> list[Work]:
    """One for each rollout; those of different seeds are independent."""
    found = []
    for number in range(config.rollouts):
        source = random.Random(f"dispatch/{seed}/{number}")
        count = round(_log_normal(source, config.turns, config.turn_sigma))
        turns = tuple(
            (
                _log_normal(source, config.turn_tokens, config.token_sigma),
                source.expovariate(1 / config.tool_s) if config.tool_s else 0.0,
            )
            for _ in range(min(max(count, 1), config.max_turns))
        )
        init_s = _log_normal(source, config.init_s, config.sigma)
        eval_s = _log_normal(source, config.eval_s, config.sigma)
        failures = [_failures(source, config.failure_frac) for _ in range(2)]
        found.append(Work(init_s, eval_s, turns, *failures))
    return found


class SimulatedLifecycle:
    """INIT and EVAL use the CPU, RUN the GPU and waits."""

    def __init__(self, work: Work, gpu: SharedMachine, cpu: SharedMachine) -> None:
        self._work, self._gpu, self._cpu = work, gpu, cpu
        self._failures = {"start": work.init_failures, "grade": work.eval_failures}
        self.is_live = False

    async def start(self) -> None:
        self.is_live = True
        await self._cpu.work(self._work.init_s)
        self._maybe_fail("start")

    async def act(self) -> None:
        for tokens, tool_s in self._work.turns:
            await self._gpu.work(tokens)
            await asyncio.sleep(tool_s)

    async def grade(self) -> Work:
        await self._cpu.work(self._work.eval_s)
        self._maybe_fail("grade")
        return self._work

    async def close(self) -> None:
        self.is_live = False

    def _maybe_fail(self, what: str) -> None:
        if self._failures[what]:
            self._failures[what] -= 1
            raise SandboxError(f"a simulated {what} failed")


# -- internals ---------------------------------------------------------------


def _log_normal(source: random.Random, median: float, sigma: float) -> float:
    return median * math.exp(source.gauss(0.0, sigma)) if sigma else median


def _failures(source: random.Random, share: float) -> int:
    count = 0
    while share and source.random() < share:
        count += 1
    return count
