"""What does deciding cost, whatever the model costs? A machine that is always full.

    machine = FullMachine(policy, tenants, waiting, places); machine.step()
    step_us(policy, ...) -> microseconds of a step that go into deciding

In every other step one sequence ends; so every place is taken in one step and one is free in the
next. As many arrive as are admitted; nothing is computed and nothing is cached.
"""

from __future__ import annotations

import time

from evolute.engine.scheduling import (
    Candidate,
    Limits,
    Policy,
    PolicySettings,
    Sequence,
    displaced,
    make_policy,
    next_step,
)
from evolute.engine.scheduling.cached import Remembered
from evolute.engine.scheduling.policies.build import PolicyName

PROMPT, OUTPUT = 4, 20


class FullMachine:
    """`places` run, `waiting` of `tenants` tenants wait."""

    def __init__(self, policy: PolicyName, tenants: int, waiting: int, places: int = 16) -> None:
        self.policy: Policy = make_policy(PolicySettings(policy))
        self.running: list[Sequence] = []
        self._tenants, self._number, self._steps = tenants, 0, 0
        self._limits = Limits(512, 100_000, 16, places)
        self._cached = Remembered(_look_up)
        for _ in range(waiting):
            self._arrive()
        for _ in range(3):
            self.step()

    def step(self) -> None:
        policy = self.policy
        victim = displaced(self.running, policy, _look_up, self._limits)
        if victim is not None:
            self._send_back(victim)
        step = next_step(self.running, policy, _look_up, self._limits, self._cached.__getitem__)
        for sequence in step.admitted:
            self._cached.pop(sequence, None)
            policy.admit(sequence, 0)
            self.running.append(sequence)
        for sequence in self.running:
            sequence.tokens.append(0)
            sequence.num_computed = sequence.num_tokens - 1
            policy.made(sequence)
        self._steps += 1
        if self._steps % 2:
            policy.finish(self.running.pop(0))
            self._arrive()

    def _arrive(self) -> None:
        self._number = number = self._number + 1
        tenant, priority = f"t{number * 7919 % self._tenants}", number * 31 % 8
        sequence = Sequence(
            number, PROMPT, [number] * PROMPT, OUTPUT, tenant=tenant, priority=priority
        )
        self.policy.push(sequence)

    def _send_back(self, victim: Sequence) -> None:
        self.running.remove(victim)
        victim.is_displaced, victim.num_computed = True, 0
        victim.num_preemptions += 1
        self.policy.push(victim, front=True)


def step_us(policy: PolicyName, tenants: int, waiting: int, places: int, steps: int) -> float:
    """Mean of `steps` steps, after a few that are not counted."""
    machine = FullMachine(policy, tenants, waiting, places)
    started = time.perf_counter()
    for _ in range(steps):
        machine.step()
    return (time.perf_counter() - started) / steps * 1e6


def _look_up(sequence: Sequence) -> Candidate:
    return Candidate(sequence, 0, 0)
