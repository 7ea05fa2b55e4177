"""All weights in training, divided over the ranks: FSDP2 (`torch.distributed.fsdp.fully_shard`).

    ShardedPolicy(model, config)      a `Policy`; each rank holds a part of every tensor, its
                                      gradient and its moments

A layer is gathered for its forward and again for its backward, and let go after both; embedding,
last norm and head stay gathered from the forward to the backward. Gradients are summed, not
averaged, as weights are baked into tokens. So every pass of one rank needs a pass of all others.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from evolute.models import LoadedModel, ModelWeights
from evolute.models.weights import fingerprint
from evolute.train.parallel import full
from evolute.train.policy import Policy, Scores, TokenBatch
from evolute.train.rollouts.packing import MicroBatch


class ShardedPolicy(Policy):
    """Needs the default process group. `model` is the same on all ranks."""

    is_sharded = True

    def __init__(self, model: LoadedModel, seed: int = 0, device: str = "cpu") -> None:
        super().__init__(model, None, seed)
        mesh = init_device_mesh(device, (dist.get_world_size(),))
        for module in (*self.decoder.layers, self.decoder):
            is_root = module is self.decoder
            made = fully_shard(module, mesh=mesh, reshard_after_forward=not is_root)
            made.set_gradient_divide_factor(1.0)
            made.set_force_sum_reduction_for_comms(True)

    def scores(self, batch: MicroBatch, temperature: float) -> tuple[TokenBatch, Scores]:
        found = super().scores(batch, temperature)
        if not torch.is_grad_enabled():
            self._let_go()
        return found

    def logprobs(self, ids: Tensor) -> Tensor:
        found = super().logprobs(ids)
        self._let_go()
        return found

    def base_weights(self) -> ModelWeights:
        """Whole, on every rank. All ranks call it."""
        named = self.decoder.named_parameters()
        return ModelWeights({name: full(parameter.detach()).clone() for name, parameter in named})

    def fingerprint(self) -> str:
        """Of the whole weights, one tensor at a time. All ranks call it."""
        named = dict(self.decoder.named_parameters())
        return fingerprint((name, full(named[name].detach())) for name in sorted(named))

    # -- internals ---------------------------------------------------------------

    def _let_go(self) -> None:
        """No backward will: the root's own tensors are parts again."""
        root: Any = self.decoder
        root.reshard()
