"""Which settings of weights' ways and of Ray act, and which cannot be honoured together?

RAY_ROWS              each key under `sync` and `ray`, with the condition under which it acts
check_ray(config)     ConfigError that names the fix
ray_notes(config)     what runs where, for people
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields

from evolute.train.settings import TrainConfig
from evolute.train.settings_ray import RayConfig
from evolute.types import ConfigError

Acts = Callable[[TrainConfig], bool]
OFF = "nothing is on Ray; set ray.engines and ray.trainers to at least 1"
AT_LEAST_ONE = ("engine_cpus", "trainer_cpus", "engine_memory_mb")
NOT_NEGATIVE = ("engines", "trainers", "workers", "stickiness", "requeues", "engine_gpus")
SECONDS = ("start_timeout_s", "collective_timeout_s")


def _on(config: TrainConfig) -> bool:
    return config.ray.is_on


RAY_ROWS: dict[str, tuple[Acts, str]] = {
    "sync.way": (lambda c: True, ""),
    "sync.folder": (
        lambda c: c.sync.way in ("shared_memory", "delta"),
        "only the ways shared_memory and delta go through files",
    ),
    "sync.base_every": (lambda c: c.sync.way == "delta", "only the way delta has snapshots"),
    "sync.timeout_s": (
        lambda c: c.ray.is_on or c.sync.way != "publish",
        "in process the way publish waits for nobody",
    ),
    **{f"ray.{field.name}": (_on, OFF) for field in fields(RayConfig)},
    "ray.engines": (lambda c: True, ""),
    "ray.trainers": (lambda c: True, ""),
    "ray.workers": (lambda c: _on(c) and not c.replay, f"{OFF}; a replay plays no episodes"),
    "ray.requeues": (lambda c: _on(c) and c.ray.workers > 0, "there are no ray.workers to lose"),
    "ray.stickiness": (
        lambda c: _on(c) and c.ray.routing == "sticky",
        "only ray.routing = 'sticky' keeps sessions",
    ),
    "ray.parallel": (
        lambda c: c.ray.trainers > 1,
        "one trainer has nothing to share; set ray.trainers to 2 or more",
    ),
}


def check_ray(config: TrainConfig) -> None:
    """Raise ConfigError for values that cannot work, alone or together."""
    _check_ranges(config)
    _check_sync(config)
    if config.ray.is_on:
        _check_group(config)
        _check_place(config)
        _check_sharded(config)


def ray_notes(config: TrainConfig) -> Iterator[str]:
    """What runs where."""
    ray = config.ray
    if not ray.is_on:
        return
    who = f"{ray.workers} workers play" if ray.workers else "this process plays"
    yield (
        f"on Ray: {ray.engines} engines ({ray.routing}), {ray.trainers} trainer ranks "
        f"({ray.parallel}), {ray.placement}; {who} the episodes"
    )


# -- internals ---------------------------------------------------------------


def _check_ranges(config: TrainConfig) -> None:
    ray, sync = config.ray, config.sync
    for names, least in ((AT_LEAST_ONE, 1), (NOT_NEGATIVE, 0)):
        for name in names:
            if getattr(ray, name) < least:
                text = f"ray.{name} is {getattr(ray, name)}; it must be at least {least}."
                raise ConfigError(text)
    for name in SECONDS:
        if not getattr(ray, name) > 0:
            raise ConfigError(f"ray.{name} is {getattr(ray, name)}; no wait is without a limit.")
    if sync.base_every < 1 or not sync.timeout_s > 0:
        raise ConfigError(
            f"sync.base_every is {sync.base_every} and sync.timeout_s {sync.timeout_s}; they must "
            "be at least 1 and above 0."
        )


def _check_sync(config: TrainConfig) -> None:
    if config.sync.way == "broadcast" and not config.ray.is_on:
        raise ConfigError(
            "sync.way is 'broadcast', which needs engines in other processes; set ray.engines and "
            "ray.trainers, or sync.way = 'publish'."
        )


def _check_group(config: TrainConfig) -> None:
    ray = config.ray
    if not (ray.engines and ray.trainers):
        raise ConfigError(
            f"ray.engines is {ray.engines} and ray.trainers {ray.trainers}; on Ray a run needs at "
            "least 1 of both, and without Ray both are 0."
        )
    if ray.engine_gpus > 1 and ray.engine_gpus != int(ray.engine_gpus):
        raise ConfigError(
            f"ray.engine_gpus is {ray.engine_gpus}; above 1 it must be a whole number, over which "
            "the engine divides its network."
        )


def _check_place(config: TrainConfig) -> None:
    ray = config.ray
    if ray.placement == "apart":
        return
    if ray.engines != ray.trainers:
        raise ConfigError(
            f"ray.placement is 'colocated', which puts engine i beside trainer i, but there are "
            f"{ray.engines} engines and {ray.trainers} trainers; make the numbers equal, or set "
            "ray.placement = 'apart'."
        )
    if config.schedule != "synchronous":
        raise ConfigError(
            f"ray.placement is 'colocated', where rollouts and updates take turns, but schedule is "
            f"{config.schedule!r}, where both go on at once; set ray.placement = 'apart', or "
            "schedule = 'synchronous'."
        )


def _check_sharded(config: TrainConfig) -> None:
    ray = config.ray
    if ray.parallel != "sharded":
        return
    if config.method != "full":
        raise ConfigError(
            "ray.parallel is 'sharded', which divides weights in training and their moments; an "
            "adapter is small, and its base is read by the fused decoder as a whole. Set method = "
            "'full', or ray.parallel = 'replicated'."
        )
