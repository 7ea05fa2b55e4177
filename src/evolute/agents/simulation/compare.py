"""Which schedule is how fast, at which cost in live worlds?

    compare(config) -> Comparison        every schedule on identical draws; means over the seeds
    table(comparison) -> text

Each row runs `Dispatcher`, the class that runs real trajectories, on an event loop whose time
jumps. `bound_s` is what no schedule with these caps can beat by more than its fill and tail:
rollouts over the slowest of live worlds, stages, CPU and GPU.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from evolute.agents.dispatcher import DispatchConfig, Dispatcher, Ending, Stage
from evolute.agents.simulation.machines import SharedMachine
from evolute.agents.simulation.settings import MachineConfig, SimulationConfig
from evolute.agents.simulation.work import SimulatedLifecycle, Work, draw_work
from evolute.telemetry.virtual_time import run_virtual

NEVER_S = 1e9  # time limits are no part of the comparison
BINS = 20  # of the GPU's timeline


@dataclass(frozen=True, slots=True)
class Row:
    """One schedule; means over the seeds."""

    schedule: str
    makespan_s: float
    gpu_busy: float  # share of its full rate
    peak_live: float
    p50_s: float  # of a lifecycle, from the begin of its start
    p95_s: float
    idle_started_s: float  # a rollout, mean: its world is up and waits for a slot to act
    waiting: float  # share of the lifecycles that is waiting
    bound_s: float
    done: float
    failed: float
    timeline: tuple[float, ...] = ()  # the GPU's busy share over the run, of the first seed


@dataclass(frozen=True, slots=True)
class Comparison:
    """`ratio` is bounded batch over pipeline, both at the same cap; `ratio_equal_live` the same
    where the pipeline may have no more live worlds than the bounded batch."""

    rows: tuple[Row, ...]
    ratio: float
    ratio_equal_live: float
    sweep: tuple[tuple[float, float], ...] = ()  # scale of INIT and EVAL, ratio


def compare(config: SimulationConfig, on_row: Callable[[int], None] | None = None) -> Comparison:
    """Deterministic. `on_row` is told how many runs are done of `num_runs(config)`."""
    done = 0

    def measured(name: str, limits: DispatchConfig, of: SimulationConfig) -> Row:
        nonlocal done
        seeds = [_simulate(name, limits, of, seed) for seed in range(of.seeds)]
        done += 1
        if on_row is not None:
            on_row(done)
        return _mean(seeds)

    rows = {name: measured(name, limits, config) for name, limits in schedules(config).items()}
    sweep = []
    for scale in config.sweep:
        scaled = _scaled(config, scale)
        pair = [measured(name, _pair(scaled)[name], scaled) for name in _pair(scaled)]
        sweep.append((scale, pair[0].makespan_s / pair[1].makespan_s))
    bounded, pipeline, equal = (rows[name].makespan_s for name in _names(config))
    return Comparison(tuple(rows.values()), bounded / pipeline, bounded / equal, tuple(sweep))


def num_runs(config: SimulationConfig) -> int:
    return len(schedules(config)) + 2 * len(config.sweep)


def schedules(config: SimulationConfig) -> dict[str, DispatchConfig]:
    """Name -> limits, in the order of the table."""
    cap, live = config.cap, config.live_cap
    bounded, pipeline, equal = _names(config)
    stages = DispatchConfig(max_init=cap, max_run=cap, max_eval=cap, queue=cap)
    found = {
        "all at once": DispatchConfig(schedule="all"),
        bounded: DispatchConfig(schedule="bounded", max_run=cap),
        pipeline: replace(stages, queue=0),
        f"pipeline {cap}, queues {cap}": stages,
        f"pipeline {cap}, live {live}": replace(stages, max_live=live),
        f"bounded batch {live}": DispatchConfig(schedule="bounded", max_run=live),
        equal: replace(stages, max_live=cap),
    }
    if config.dispatch != DispatchConfig():
        found["as in [dispatch]"] = config.dispatch
    return found


def table(comparison: Comparison) -> str:
    """For people; columns as in docs/lab.md."""
    head: tuple[str, ...] = ("schedule", "makespan s", "bound s", "GPU busy", "peak live")
    head = (*head, "p50 s", "p95 s", "idle started s", "waiting")
    lines = [head]
    for row in comparison.rows:
        numbers = (row.makespan_s, row.bound_s, row.gpu_busy, row.peak_live, row.p50_s, row.p95_s)
        shown = [f"{number:.2f}" if number < 1 else f"{number:,.0f}" for number in numbers]
        lines.append((row.schedule, *shown, f"{row.idle_started_s:,.0f}", f"{row.waiting:.2f}"))
    widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
    text = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:]))])
        for line in lines
    ]
    text.append(f"bounded batch / pipeline at equal caps: {comparison.ratio:.2f}x")
    text.append(f"the same at equal live worlds: {comparison.ratio_equal_live:.2f}x")
    text += [f"INIT and EVAL x {scale:g}: {ratio:.2f}x" for scale, ratio in comparison.sweep]
    return "\n".join(text)


# -- internals ---------------------------------------------------------------


def _names(config: SimulationConfig) -> tuple[str, str, str]:
    cap = config.cap
    return f"bounded batch {cap}", f"pipeline {cap}, no queue limit", f"pipeline {cap}, live {cap}"


def _pair(config: SimulationConfig) -> dict[str, DispatchConfig]:
    """Bounded batch, then pipeline."""
    found = schedules(config)
    return {name: found[name] for name in _names(config)[:2]}


def _scaled(config: SimulationConfig, scale: float) -> SimulationConfig:
    work = config.work
    return replace(
        config, work=replace(work, init_s=work.init_s * scale, eval_s=work.eval_s * scale)
    )


def _simulate(name: str, limits: DispatchConfig, config: SimulationConfig, seed: int) -> Row:
    work = draw_work(config.work, seed)
    endless = replace(
        limits,
        init_timeout_s=NEVER_S,
        run_timeout_s=NEVER_S,
        eval_timeout_s=NEVER_S,
        close_timeout_s=NEVER_S,
    )
    return run_virtual(_run(name, endless, config, work))


async def _run(
    name: str, limits: DispatchConfig, config: SimulationConfig, work: Sequence[Work]
) -> Row:
    loop, machine = asyncio.get_running_loop(), config.machine
    gpu, cpu = _gpu(machine), _cpu(machine)
    busy: list[tuple[float, float]] = []
    async with Dispatcher(limits) as dispatcher:
        watch = asyncio.create_task(_watch(gpu, busy))
        lives = [SimulatedLifecycle(each, gpu, cpu) for each in work]
        groups = [number // config.work.group for number in range(len(work))]
        endings = await dispatcher.run(lives, groups)
        makespan_s, busy_s = loop.time(), gpu.busy_s()
        watch.cancel()
        stats = dispatcher.stats()
    lives_s = sorted(ending.seconds - ending.times[Stage.LIVE].wait_s for ending in endings)
    idle_s = [ending.times[Stage.RUN].wait_s for ending in endings if Stage.RUN in ending.times]
    return Row(
        name,
        makespan_s,
        busy_s / makespan_s if makespan_s else 0.0,
        stats["live/peak"],
        _quantile(lives_s, 0.5),
        _quantile(lives_s, 0.95),
        statistics.fmean(idle_s) if idle_s else 0.0,
        _waiting(endings),
        _bound_s(limits, machine, work),
        stats["ended/done"],
        stats["ended/failed"],
        _timeline(busy, makespan_s),
    )


def _gpu(machine: MachineConfig) -> SharedMachine:
    one, whole = machine.request_tokens_per_s, machine.tokens_per_s
    return SharedMachine(lambda count: min(one, whole / count), whole, machine.max_requests)


def _cpu(machine: MachineConfig) -> SharedMachine:
    """A slot a job while there are enough; beyond that all share, and switching costs."""
    slots, penalty = machine.cpu_slots, machine.cpu_penalty

    def rate(count: int) -> float:
        load = count / slots
        return 1.0 if load <= 1 else 1 / (load * (1 + penalty * (load - 1)))

    return SharedMachine(rate, slots)


def _bound_s(limits: DispatchConfig, machine: MachineConfig, work: Sequence[Work]) -> float:
    """Rollouts over the throughput of the narrowest place, and never below the longest one."""
    init_s = sum(each.init_s for each in work)
    eval_s = sum(each.eval_s for each in work)
    runs_s = [each.run_s(machine.request_tokens_per_s) for each in work]
    needs = [
        (sum(each.tokens for each in work), machine.tokens_per_s),
        (init_s + eval_s, machine.cpu_slots),
        (init_s, limits.limit("max_init")),
        (sum(runs_s), limits.limit("max_run")),
        (eval_s, limits.limit("max_eval")),
        (init_s + sum(runs_s) + eval_s, limits.limit("max_live")),
    ]
    alone = [each.init_s + run_s + each.eval_s for each, run_s in zip(work, runs_s)]
    return max([need / limit for need, limit in needs if limit] + alone)


async def _watch(gpu: SharedMachine, busy: list[tuple[float, float]]) -> None:
    """Busy seconds at growing distances: enough for a timeline of any length."""
    loop = asyncio.get_running_loop()
    while True:
        busy.append((loop.time(), gpu.busy_s()))
        await asyncio.sleep(max(loop.time() / 200, 1.0))


def _timeline(busy: Sequence[tuple[float, float]], makespan_s: float) -> tuple[float, ...]:
    if makespan_s <= 0:
        return ()
    edges = [makespan_s * place / BINS for place in range(BINS + 1)]
    at = [_at(busy, edge) for edge in edges]
    width = makespan_s / BINS
    return tuple(round((after - before) / width, 3) for before, after in itertools.pairwise(at))


def _at(busy: Sequence[tuple[float, float]], time_s: float) -> float:
    """Between two readings the line between them."""
    earlier = [(t, b) for t, b in busy if t <= time_s][-1]
    later = next(((t, b) for t, b in busy if t > time_s), None)
    if later is None:
        return earlier[1]
    share = (time_s - earlier[0]) / (later[0] - earlier[0])
    return earlier[1] + share * (later[1] - earlier[1])


def _waiting(endings: Sequence[Ending[Work]]) -> float:
    """Share of the time between start and close in which a rollout waited for a slot."""
    waited_s = lived_s = 0.0
    for ending in endings:
        times = ending.times
        waited_s += sum(t.wait_s + t.handover_s for s, t in times.items() if s is not Stage.LIVE)
        lived_s += ending.seconds - times[Stage.LIVE].wait_s
    return waited_s / lived_s if lived_s else 0.0


def _quantile(values: Sequence[float], share: float) -> float:
    return values[min(int(share * len(values)), len(values) - 1)] if values else 0.0


def _mean(rows: Sequence[Row]) -> Row:
    numbers = {
        name: statistics.fmean(getattr(row, name) for row in rows)
        for name in Row.__dataclass_fields__
        if name not in ("schedule", "timeline")
    }
    return Row(rows[0].schedule, **numbers, timeline=rows[0].timeline)
