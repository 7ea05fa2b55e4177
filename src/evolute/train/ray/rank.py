"""One rank of the trainer group: the body of its actor. It knows no schedule and no engine.

    TrainerRank(rank, size, config)
    .address() -> HOST:PORT             of rank 0: where the ranks meet
    .join(address)                      model, optimizer, process group
    .update(rollouts)                   one step, together with the other ranks
    .prepare(version, canary)           what will be published, and the trainer's view of the canary
    .kept(version)                      those weights, for whoever fetches them
    .send(version, canary, engines, spec)       ... or by one of the ways, with proofs
    .checkpoint_state(), .check_state(state), .restore_state(state)

Group calls go to all ranks alike. Our errors travel as values (`Failed`), so that they arrive as
the exceptions they were.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from evolute.engine.replicas.actor import Failed
from evolute.models import LoraWeights, ModelWeights, load_model
from evolute.train.checkpoint import TrainerState, check_state, restore, state_of
from evolute.train.companions import companions
from evolute.train.control.priority import step_back
from evolute.train.parallel import Alone, Peers, ProcessPeers
from evolute.train.ray.channel import Spec, channels_to
from evolute.train.settings import TrainConfig
from evolute.train.sharded import ShardedPolicy
from evolute.train.sync import PublishProof, publish_remotely
from evolute.train.trainer import Trainer, UpdateReport, make_policy
from evolute.types import EvoluteError, Rollout, TrainingError

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class RankFacts:
    """What is true of a rank from its start."""

    rank: int
    pid: int
    node: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class RankUpdate:
    """What one rank says of a step."""

    report: UpdateReport
    fingerprint: str  # of the weights afterwards


@dataclass(frozen=True, slots=True)
class Prepared:
    """Weights that are about to be published; a `Publishable`."""

    version: int
    weights: LoraWeights | ModelWeights
    told: Tensor  # the trainer's log-probabilities of the canary

    def snapshot(self) -> LoraWeights | ModelWeights:
        return self.weights

    def logprobs(self, ids: Tensor) -> Tensor:
        if len(ids) != len(self.told) + 1:
            raise TrainingError("another canary was prepared than is asked for.")
        return self.told


def told(call: Callable[P, R]) -> Callable[P, R | Failed]:
    """A method on the rank's one thread, whose own errors are values."""

    @functools.wraps(call)
    def outer(*args: P.args, **settings: P.kwargs) -> R | Failed:
        me: Any = args[0]
        try:
            found: R = me.thread.submit(call, *args, **settings).result()
            return found
        except EvoluteError as error:
            return Failed(error)

    return outer


class TrainerRank:
    """All torch work is done by one thread: torch starts threads for each one that calls."""

    def __init__(self, rank: int, size: int, config: TrainConfig) -> None:
        self.rank, self.size, self.config = rank, size, config
        self.thread = ThreadPoolExecutor(
            1, "evolute-update", initializer=step_back, initargs=(config.update_nice,)
        )
        torch.set_num_threads(config.ray.trainer_cpus)
        self._prepared: Prepared | None = None

    def address(self) -> str:
        """A port of this machine that is free now."""
        host = node_address()
        with socket.socket() as probe:
            probe.bind((host, 0))
            return f"{host}:{probe.getsockname()[1]}"

    @told
    def join(self, address: str) -> RankFacts:
        """Meet the other ranks and build what is trained; equal on all by the seed."""
        config, peers = self.config, self._peers(address)
        model = load_model(config.model)
        is_sharded = config.ray.parallel == "sharded"
        self.policy = ShardedPolicy(model) if is_sharded else make_policy(model, config)
        beside = companions(model, config)
        self.trainer = Trainer(self.policy, config, beside.reference, beside.teacher, peers)
        return RankFacts(self.rank, os.getpid(), os.uname().nodename, self.policy.fingerprint())

    @told
    def update(self, rollouts: list[Rollout]) -> RankUpdate:
        report = self.trainer.update(rollouts)
        return RankUpdate(report, self.policy.fingerprint())

    @told
    def prepare(self, version: int, canary: Sequence[int]) -> str:
        """The fingerprint of what was taken."""
        weights = self.policy.snapshot()
        told = self.policy.logprobs(torch.tensor(canary))
        if self.rank == 0:
            self._prepared = Prepared(version, weights, told)
        return weights.fingerprint()

    def canary(self, version: int) -> list[float]:
        """The trainer's log-probabilities of the canary, of the prepared weights."""
        return [float(x) for x in self._known(version).told]

    def kept(self, version: int) -> LoraWeights | ModelWeights:
        """The prepared weights, also while an update runs."""
        return self._known(version).weights

    def send(
        self, version: int, canary: Sequence[int], engines: Sequence[Any], spec: Spec
    ) -> list[PublishProof] | Failed:
        """The prepared weights to these actors, each of which proves that it has them."""
        try:
            channels, sender = channels_to(engines, spec)
            known = self._known(version)
            return publish_remotely(channels, sender, known, version, canary, spec.timeout_s)
        except EvoluteError as error:
            return Failed(error)

    @told
    def checkpoint_state(self) -> TrainerState | None:
        """Rank 0's is everybody's."""
        state = state_of(self.trainer)
        return state if self.rank == 0 else None

    @told
    def check_state(self, state: TrainerState) -> str:
        """What is wrong with it; empty: nothing."""
        try:
            check_state(self.trainer, state)
        except (KeyError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        return ""

    @told
    def restore_state(self, state: TrainerState) -> str:
        """The fingerprint of the weights afterwards."""
        restore(self.trainer, state)
        return self.policy.fingerprint()

    # -- internals ---------------------------------------------------------------

    def _peers(self, address: str) -> Peers:
        ray = self.config.ray
        if self.size == 1:
            return Alone()
        timeout = timedelta(seconds=ray.collective_timeout_s)
        dist.init_process_group(
            "gloo",
            init_method=f"tcp://{address}",
            rank=self.rank,
            world_size=self.size,
            timeout=timeout,
        )
        return ProcessPeers(in_step=ray.parallel == "sharded")

    def _known(self, version: int) -> Prepared:
        if self._prepared is None or self._prepared.version != version:
            raise TrainingError(f"weights {version} are not prepared; prepare them first.")
        return self._prepared


def node_address() -> str:
    """Of this machine, as the others of the cluster reach it."""
    import ray

    util: Any = ray.util
    return str(util.get_node_ip_address())
