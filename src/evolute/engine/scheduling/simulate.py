"""What would the scheduler do with these arrivals? Replay without a model or a clock.

    read_trace(path) -> settings, arrivals     one JSON line of settings, then one an arrival
    simulate(arrivals, settings) -> Replay     steps, counts, waiting times
    replay.text()                              the schedule to be compared line by line
    SimulatedEngine(settings)                  one engine, stepped by whoever has several

Scheduling and memory are the real ones; the model is a hash of the tokens so far, and time is
the number of steps. Used to compare policies, and to notice when a refactor changes a schedule.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from evolute.engine.scheduling.placement import Placement
from evolute.engine.scheduling.policies import Policy, PolicySettings, make_policy
from evolute.engine.scheduling.policies.build import PolicyName, PredictorName
from evolute.engine.scheduling.sequence import Sequence
from evolute.engine.scheduling.step import Limits, Step, displaced, next_step


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request; all of `max_new_tokens` are made. It arrives at `step`, or as soon as those of
    the arrivals before it that it comes `after` have ended."""

    step: int
    prompt: tuple[int, ...]
    max_new_tokens: int
    tenant: str = "default"
    priority: int = 0
    after: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SimulationSettings:
    num_pages: int
    page_size: int = 16
    token_budget: int = 512
    max_running: int = 32
    policy: PolicyName = "fcfs"
    predict: PredictorName = "none"
    quantum: int = 1024
    weights: tuple[tuple[str, float], ...] = ()

    def fairness(self) -> PolicySettings:
        return PolicySettings(
            self.policy, predict=self.predict, quantum=self.quantum, weights=self.weights
        )


@dataclass(slots=True)
class Replay:
    """What happened. Lists are indexed by arrival."""

    schedule: list[list[tuple[int, int]]] = field(default_factory=list)  # (arrival, tokens)
    computed_tokens: int = 0
    cached_tokens: list[int] = field(default_factory=list)
    evicted_pages: int = 0
    preemptions: int = 0
    waited_steps: list[int] = field(default_factory=list)
    passed_over: list[int] = field(default_factory=list)  # how often by a later arrival
    outputs: list[list[int]] = field(default_factory=list)

    @property
    def num_steps(self) -> int:
        return len(self.schedule)

    def text(self) -> str:
        """One line a step, `arrival+tokens` for each chunk; then what came of it."""
        steps = [
            f"{number}: {' '.join(f'{who}+{count}' for who, count in step)}"
            for number, step in enumerate(self.schedule)
        ]
        totals = [
            f"computed {self.computed_tokens}, evicted {self.evicted_pages}, "
            f"preempted {self.preemptions}",
            f"cached {' '.join(map(str, self.cached_tokens))}",
            f"waited {' '.join(map(str, self.waited_steps))}",
        ]
        return "\n".join([*steps, *totals]) + "\n"


def read_trace(path: Path) -> tuple[SimulationSettings, list[Arrival]]:
    """Settings and arrivals of a recorded trace, in the order of the file."""
    first, *rest = (json.loads(line) for line in path.read_text().splitlines())
    return SimulationSettings(**first), [
        Arrival(one["step"], tuple(one["prompt"]), one["max_new_tokens"]) for one in rest
    ]


def simulate(
    arrivals: list[Arrival],
    settings: SimulationSettings,
    watch: Callable[[Policy], None] = lambda policy: None,
    *,
    is_checked: bool = True,
) -> Replay:
    """Run all arrivals to their end. AssertionError if the schedule stalls or loses a page.

    `watch` sees the policy after each step. Looking at every page after each of them is most of
    the time of a large simulation; without `is_checked` it is done at the end.
    """
    return _Simulation(arrivals, settings, watch, is_checked).run()


class SimulatedEngine:
    """The engine's own scheduling and memory; the next token is a hash of those before it."""

    def __init__(self, settings: SimulationSettings) -> None:
        self.settings = settings
        self.placement = Placement(settings.num_pages, settings.page_size)
        self.queue: Policy = make_policy(settings.fairness())
        self.computed_tokens = self.preemptions = 0

    @property
    def is_idle(self) -> bool:
        return not (self.placement.running or len(self.queue))

    def step(self) -> tuple[Step, list[tuple[int, int]], list[Sequence]]:
        """What was decided, (sequence, tokens) of what was computed, and who ended."""
        settings, placement = self.settings, self.placement
        limits = Limits(
            settings.token_budget,
            placement.num_available,
            settings.page_size,
            settings.max_running,
        )
        victim = displaced(placement.running, self.queue, placement.look_up, limits)
        if victim is not None:
            self._preempt(victim)
            victim.is_displaced = True
            limits = replace(limits, available_pages=placement.num_available)
        step = next_step(
            placement.running, self.queue, placement.look_up, limits, placement.cached_tokens()
        )
        for sequence in step.preempted:
            self._preempt(sequence)
        for sequence in step.admitted:
            self.queue.admit(sequence, placement.look_up(sequence).num_cached)
            placement.admit(sequence)
        return step, *self._compute(step)

    # -- internals -------------------------------------------------------------

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        sequence.num_preemptions += 1
        self.queue.push(sequence, front=True)
        self.placement.release(sequence)

    def _compute(self, step: Step) -> tuple[list[tuple[int, int]], list[Sequence]]:
        chunks = [chunk for chunk in step.chunks if self.placement.reserve(chunk)]
        ended = []
        for chunk in chunks:
            sequence = chunk.sequence
            sequence.num_computed += chunk.num_tokens
            self.computed_tokens += chunk.num_tokens
            if sequence.num_uncomputed == 0:
                if sequence.num_generated == 0:
                    self.placement.publish(sequence)
                sequence.tokens.append(hash(tuple(sequence.tokens)) % 1000)
                self.queue.made(sequence)
                if sequence.num_generated == sequence.max_new_tokens:
                    ended.append(sequence)
                    self.queue.finish(sequence)
                    self.placement.release(sequence)
        return [(chunk.sequence.id, chunk.num_tokens) for chunk in chunks], ended


# -- internals ---------------------------------------------------------------


class _Simulation:
    def __init__(
        self,
        arrivals: list[Arrival],
        settings: SimulationSettings,
        watch: Callable[[Policy], None],
        is_checked: bool,
    ) -> None:
        self.arrivals, self.watch, self.is_checked = arrivals, watch, is_checked
        for number, arrival in enumerate(arrivals):
            assert all(before < number for before in arrival.after), "after one that comes later"
        self.engine, self.replay = SimulatedEngine(settings), Replay()
        self.pushed_at: dict[int, int] = {}
        self.admitted_at: dict[int, int] = {}
        self.ended: set[int] = set()
        self.sequences = [
            Sequence(
                i,
                len(a.prompt),
                list(a.prompt),
                a.max_new_tokens,
                tenant=a.tenant,
                priority=a.priority,
            )
            for i, a in enumerate(arrivals)
        ]

    def run(self) -> Replay:
        now, engine = 0, self.engine
        coming = list(self.sequences)
        while coming or not engine.is_idle:
            coming = [sequence for sequence in coming if not self._arrives(sequence, now)]
            busy = not engine.is_idle
            done = self._step(now)
            self.watch(engine.queue)
            assert done or not busy, f"step {now} computed nothing: the schedule stalls"
            now += 1
        replay, placement = self.replay, engine.placement
        replay.computed_tokens, replay.preemptions = engine.computed_tokens, engine.preemptions
        replay.evicted_pages = placement.num_evicted
        replay.cached_tokens = [s.num_cached or 0 for s in self.sequences]
        replay.outputs = [s.tokens[s.prompt_len :] for s in self.sequences]
        replay.passed_over = [s.passed_over for s in self.sequences]
        for i in range(len(self.arrivals)):
            replay.waited_steps.append(self.admitted_at[i] - self.pushed_at[i])
        placement.check()
        assert placement.cache.num_pinned == 0, "a pin was forgotten"
        return replay

    def _arrives(self, sequence: Sequence, now: int) -> bool:
        arrival = self.arrivals[sequence.id]
        if arrival.step > now or not self.ended.issuperset(arrival.after):
            return False
        self.pushed_at[sequence.id] = now
        self.engine.queue.push(sequence)
        return True

    def _step(self, now: int) -> bool:
        step, computed, ended = self.engine.step()
        for sequence in step.admitted:
            self.admitted_at.setdefault(sequence.id, now)
        self.ended |= {sequence.id for sequence in ended}
        self.replay.schedule += [computed] if computed else []
        if self.is_checked:
            self.engine.placement.check()
        return bool(computed or step.preempted)
