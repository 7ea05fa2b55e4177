"""Settings of the training service: `evolute serve --train --set train.KEY=VALUE`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evolute.train.tinker.databases import URLS
from evolute.types import ConfigError


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """What `serve --train` may be told. All is kept below `directory`."""

    directory: str = "runs/service"  # database, states of models, checkpoints
    database: str = ""  # postgresql://HOST/NAME; empty: SQLite in the directory
    names: tuple[str, ...] = ()  # further names of the base model, as clients write them
    tokenizer: str = ""  # told to clients; empty: the model's directory, if it is one
    alpha: float = 32.0  # of every adapter; clients choose the rank alone
    max_rank: int = 128
    max_models: int = 64  # that are not unloaded, of everybody together
    max_resident: int = 16  # of them in memory; the others are on disk
    max_samplers: int = 16  # adapters of samplers in the engine; the others are on disk
    max_datums: int = 4096  # of one request
    max_pending: int = 4096  # requests of one session that wait
    micro_batch_tokens: int = 1200  # bounds memory, never the result
    precision: Literal["float32", "mixed", "bfloat16"] = "float32"  # of products in training
    fused: bool = True  # the decoder with gradients by hand
    look_ahead: int = 8  # forward passes before a step that are computed together; 1: each alone
    state_every: int = 1  # optimizer steps between states on disk; the rest is done again
    unembed: Literal["leave", "refuse"] = "leave"  # train_unembed: not trained, or not accepted
    gap_s: float = 1.0  # for a request whose number is missing, before its followers go on
    poll_s: float = 20.0  # until an unfinished future is answered with try_again
    heartbeat_s: float = 300.0  # without a sign of life, then a session has expired
    sweep_s: float = 60.0  # between looks for expired sessions and old results
    keep_result_s: float = 3600.0  # results of futures, after they were made
    keep_sampler_s: float = 86400.0  # weights of unnamed samplers, after they were last used
    max_attempts: int = 3  # starts of a request; a process that dies in it costs one
    update_nice: int = 10  # 0 to 19: how far training steps back behind serving (Linux)

    def __post_init__(self) -> None:
        whole = ("max_rank", "max_models", "max_resident", "max_samplers", "max_datums")
        more = ("max_pending", "micro_batch_tokens", "look_ahead", "state_every", "max_attempts")
        for name in (*whole, *more):
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("alpha", "poll_s", "heartbeat_s", "sweep_s", "keep_result_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"train.{name} is {getattr(self, name)}; it must be above 0.")
        if not 0 <= self.gap_s <= 60 or not self.keep_sampler_s > 0:
            raise ConfigError("train.gap_s must lie in [0, 60], train.keep_sampler_s above 0.")
        if not 0 <= self.update_nice <= 19:
            raise ConfigError(f"train.update_nice is {self.update_nice}; it lies in [0, 19].")
        if self.database and not self.database.startswith(URLS):
            raise ConfigError(
                f"train.database is {self.database!r}; write postgresql://HOST/NAME, or leave it "
                "empty for SQLite."
            )
        if not self.directory:
            raise ConfigError("train.directory is empty; name a directory.")


def check_precision(precision: str) -> None:
    """Raises ConfigError for an engine that computes another model than the trainer."""
    if precision not in ("float32", "auto"):
        raise ConfigError(
            f"engine.precision is {precision!r}, but training computes with the float32 weights: "
            "log-probabilities of the sampler would be of another model, and every ratio wrong. "
            "Serve with --set precision=float32, or without --train."
        )
