"""One tenant's model in memory: an adapter on the shared base, its gradient, its optimizer.

    TenantModel(base, lora)
    .accumulate(requests, budget) -> [Scored or the error of each]
    .step(AdamParams) -> metrics                 applies the sum of all gradients since the last
    .state(), .load(state)                       tensors by name, for disk

What a request added to the gradient is added whole or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evolute.models import LoraWeights
from evolute.train.policy import Policy
from evolute.train.tinker import passes
from evolute.types import RequestError, TrainingError


@dataclass(frozen=True, slots=True)
class AdamParams:
    """Of one step: AdamW with decoupled decay (Loshchilov and Hutter 2019, arXiv 1711.05101)."""

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0  # 0: not clipped

    def __post_init__(self) -> None:
        sound = {
            "learning_rate": 0 <= self.learning_rate < math.inf,
            "beta1": 0 <= self.beta1 < 1,
            "beta2": 0 <= self.beta2 < 1,
            "eps": 0 <= self.eps < math.inf,
            "weight_decay": 0 <= self.weight_decay < math.inf,
            "grad_clip_norm": 0 <= self.grad_clip_norm < math.inf,
        }
        for name, is_sound in sound.items():
            if not is_sound:
                raise RequestError(f"{name} is {getattr(self, name)}, which Adam cannot use.")


class Diverged(TrainingError):
    """A step whose result is not finite: what is in memory is of no use any more."""


class TenantModel:
    """Used from the thread that trains."""

    def __init__(self, base: Policy, lora: LoraWeights) -> None:
        self.policy = base.with_adapter(lora)
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=0.0)
        self.steps = 0
        self._gradient: list[Tensor] | None = None

    @property
    def has_gradient(self) -> bool:
        return self._gradient is not None

    def accumulate(
        self, requests: Sequence[passes.Request], budget: int
    ) -> list[passes.Scored | TrainingError]:
        """Score the requests in one go, and add the gradient of those that are backward. When
        something is not finite each is done alone, so that only the one at fault fails."""
        try:
            found = passes.run(self.policy, requests, budget)
            self._add(is_backward=any(request.is_backward for request in requests))
        except TrainingError as error:
            if len(requests) == 1:
                return [error]
            return [one for request in requests for one in self.accumulate([request], budget)]
        finally:
            self.optimizer.zero_grad(set_to_none=True)
        return list(found)

    def step(self, params: AdamParams) -> dict[str, float]:
        """Raises RequestError when there is nothing to apply, Diverged when it came to nothing."""
        if self._gradient is None:
            raise RequestError(
                "there is no gradient to apply: no forward_backward succeeded since the last "
                "optim_step, load_weights or the model's creation."
            )
        parameters = self.policy.parameters()
        for parameter, gradient in zip(parameters, self._gradient):
            parameter.grad = gradient
        self._gradient = None
        limit = params.grad_clip_norm or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
        try:
            if not math.isfinite(norm):
                raise TrainingError("the summed gradient is not finite; it was dropped.")
            for group in self.optimizer.param_groups:
                group |= {
                    "lr": params.learning_rate,
                    "betas": (params.beta1, params.beta2),
                    "eps": params.eps,
                    "weight_decay": params.weight_decay,
                }
            self._apply()
        finally:
            self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        return {"grad_norm": norm, "learning_rate": params.learning_rate, "step": self.steps}

    def snapshot(self) -> LoraWeights:
        """A copy of the adapter, which later training does not change."""
        assert self.policy.lora is not None
        return self.policy.lora.clone()

    def optimizer_state(self) -> dict[str, Tensor]:
        found = {"steps": torch.tensor(self.steps)}
        for name, parameter in self.policy.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                found[f"{name}/{key}"] = torch.as_tensor(value).clone()
        return found

    def load(self, lora: LoraWeights, optimizer: dict[str, Tensor] | None) -> None:
        """Weights and optimizer (None: a new one) in place of ours; the gradient is dropped."""
        named = dict(self.policy.named_parameters())
        theirs = dict(lora.named_parameters())
        for name, parameter in named.items():
            if name not in theirs or theirs[name].shape != parameter.shape:
                raise RequestError(
                    f"the saved adapter has no {name} of shape {list(parameter.shape)}; make a "
                    "model of the saved one's rank and modules, or from the saved state itself."
                )
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_(theirs[name])
        self._gradient, self.steps = None, 0
        self.optimizer.state.clear()
        if optimizer is not None:
            self.steps = int(optimizer.get("steps", torch.tensor(0)))
            for name, parameter in named.items():
                own = {
                    k.rpartition("/")[2]: v
                    for k, v in optimizer.items()
                    if k.startswith(f"{name}/")
                }
                if own:
                    self.optimizer.state[parameter] = own

    def _apply(self) -> None:
        try:
            self.optimizer.step()
            is_finite = all(bool(torch.isfinite(p).all()) for p in self.policy.parameters())
        except (RuntimeError, OverflowError):  # torch's, for a number that is no float32
            is_finite = False
        if not is_finite:
            raise Diverged("the step leads to weights that are not finite; lower learning_rate.")

    def _add(self, *, is_backward: bool) -> None:
        if not is_backward:
            return
        parameters = self.policy.parameters()
        new = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        if not all(bool(torch.isfinite(g).all()) for g in new):
            raise TrainingError("the gradient is not finite; nothing of it was added.")
        if self._gradient is None:
            self._gradient = new
        else:
            for mine, more in zip(self._gradient, new):
                mine.add_(more)
