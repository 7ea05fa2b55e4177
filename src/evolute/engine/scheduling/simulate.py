"""What would the scheduler do with these arrivals? Replay without a model or a clock.

    read_trace(path) -> settings, arrivals     one JSON line of settings, then one an arrival
    simulate(arrivals, settings) -> Replay     steps, counts, waiting times
    replay.text()                              the schedule to be compared line by line

Scheduling and memory are the real ones; the model is a hash of the tokens so far, and time is
the number of steps. Used to compare policies, and to notice when a refactor changes a schedule.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from evolute.engine.memory import PagePool, RadixCache, RadixNode
from evolute.engine.scheduling.queue import QUEUES, Queue
from evolute.engine.scheduling.sequence import Sequence
from evolute.engine.scheduling.step import Candidate, Chunk, Limits, Step, next_step


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request. `step` is when it arrives; all of `max_new_tokens` are made."""

    step: int
    prompt: tuple[int, ...]
    max_new_tokens: int
    tenant: str = "default"


@dataclass(frozen=True, slots=True)
class SimulationSettings:
    num_pages: int
    page_size: int = 16
    token_budget: int = 512
    max_running: int = 32
    policy: str = "fcfs"


@dataclass(slots=True)
class Replay:
    """What happened. Lists are indexed by arrival."""

    schedule: list[list[tuple[int, int]]] = field(default_factory=list)  # (arrival, tokens)
    computed_tokens: int = 0
    cached_tokens: list[int] = field(default_factory=list)
    evicted_pages: int = 0
    preemptions: int = 0
    waited_steps: list[int] = field(default_factory=list)
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


def simulate(arrivals: list[Arrival], settings: SimulationSettings) -> Replay:
    """Run all arrivals to their end. AssertionError if the schedule stalls or loses a page."""
    return _Simulation(arrivals, settings).run()


# -- internals ---------------------------------------------------------------


class _Simulation:
    def __init__(self, arrivals: list[Arrival], settings: SimulationSettings) -> None:
        self.settings, self.arrivals = settings, arrivals
        self.pool, self.cache = PagePool(settings.num_pages), RadixCache(settings.page_size)
        self.queue: Queue = QUEUES[settings.policy]()
        self.running: list[Sequence] = []
        self.pinned: dict[Sequence, RadixNode] = {}
        self.replay = Replay()
        self.admitted_at: dict[int, int] = {}
        self.sequences = [
            Sequence(i, len(a.prompt), list(a.prompt), a.max_new_tokens, tenant=a.tenant)
            for i, a in enumerate(arrivals)
        ]

    def run(self) -> Replay:
        now, last = 0, max((a.step for a in self.arrivals), default=-1)
        while now <= last or self.running or len(self.queue):
            for sequence, arrival in zip(self.sequences, self.arrivals):
                if arrival.step == now:
                    self.queue.push(sequence)
            busy = bool(self.running or len(self.queue))
            done = self._step(now)
            assert done or not busy, f"step {now} computed nothing: the schedule stalls"
            now += 1
        replay = self.replay
        replay.cached_tokens = [s.num_cached or 0 for s in self.sequences]
        replay.outputs = [s.tokens[s.prompt_len :] for s in self.sequences]
        replay.waited_steps = [self.admitted_at[i] - a.step for i, a in enumerate(self.arrivals)]
        assert self.pool.num_free + self.cache.num_pages == self.pool.num_pages, "pages were lost"
        assert self.cache.num_pinned == 0, "a pin was forgotten"
        return replay

    def _step(self, now: int) -> bool:
        settings = self.settings
        available = self.pool.num_free + self.cache.num_evictable
        limits = Limits(settings.token_budget, available, settings.page_size, settings.max_running)
        order = self.queue.order(lambda s: self._look_up(s).num_cached)
        step = next_step(self.running, order, self._look_up, limits)
        for sequence in step.preempted:
            self.replay.preemptions += 1
            self._release(sequence)
            self.queue.push(sequence, front=True)
        for sequence in step.admitted:
            self.admitted_at.setdefault(sequence.id, now)
            self._admit(sequence)
        computed = self._compute(step)
        self.replay.schedule += [computed] if computed else []
        self.cache.check()
        return bool(computed or step.preempted)

    def _look_up(self, sequence: Sequence) -> Candidate:
        match = self.cache.match(sequence.namespace, sequence.tokens[:-1])
        return Candidate(sequence, match.num_tokens, len(match.pages))

    def _admit(self, sequence: Sequence) -> None:
        self.queue.remove(sequence)
        self.running.append(sequence)
        match = self.cache.match(sequence.namespace, sequence.tokens[:-1])
        if match.pages:
            self.pinned[sequence] = self.cache.pin(match)
        sequence.pages, sequence.num_shared_pages = list(match.pages), len(match.pages)
        sequence.num_computed = match.num_tokens
        if sequence.num_cached is None:
            sequence.num_cached = match.num_tokens

    def _compute(self, step: Step) -> list[tuple[int, int]]:
        chunks = [chunk for chunk in step.chunks if self._reserve(chunk)]
        for chunk in chunks:
            sequence = chunk.sequence
            sequence.num_computed += chunk.num_tokens
            self.replay.computed_tokens += chunk.num_tokens
            if sequence.num_uncomputed == 0:
                if sequence.num_generated == 0:
                    self._publish(sequence)
                sequence.tokens.append(hash(tuple(sequence.tokens)) % 1000)
                if sequence.num_generated == sequence.max_new_tokens:
                    self._release(sequence)
        return [(chunk.sequence.id, chunk.num_tokens) for chunk in chunks]

    def _reserve(self, chunk: Chunk) -> bool:
        count = chunk.sequence.pages_for(chunk.num_tokens, self.settings.page_size)
        if self.pool.num_free < count:
            evicted = self.cache.evict(count - self.pool.num_free)
            self.replay.evicted_pages += len(evicted)
            self.pool.free(evicted)
        pages = self.pool.allocate(count)
        chunk.sequence.pages += pages or []
        return pages is not None

    def _publish(self, sequence: Sequence) -> None:
        whole = sequence.num_computed // self.settings.page_size
        tokens = sequence.tokens[: whole * self.settings.page_size]
        own = set(sequence.pages[sequence.num_shared_pages :])
        duplicates = self.cache.insert(sequence.namespace, tokens, sequence.pages[:whole])
        match = self.cache.match(sequence.namespace, tokens)
        before = self.pinned.pop(sequence, None)
        if match.pages:
            self.pinned[sequence] = self.cache.pin(match)
        if before is not None:
            self.pool.free(self.cache.unpin(before))
        self.pool.free(page for page in duplicates if page in own)
        sequence.pages = [*match.pages, *sequence.pages[whole:]]
        sequence.num_shared_pages = whole

    def _release(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._publish(sequence)
        self.pool.free(sequence.pages[sequence.num_shared_pages :])
        held = self.pinned.pop(sequence, None)
        if held is not None:
            self.pool.free(self.cache.unpin(held))
        sequence.pages, sequence.num_shared_pages, sequence.num_computed = [], 0, 0
