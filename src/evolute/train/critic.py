"""The value head: what return does a hidden state of the policy promise?

    Critic(width, config).values(hidden) -> [N]
    critic.loss(hidden, old, returns, weights), then critic.step()

One linear layer on hidden states whose gradient stops there, with an optimizer of its own. So the
policy's update does not depend on the critic's but through advantages.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from evolute.train.algorithms import CriticConfig, value_loss

MAX_GRAD_NORM = 1.0


class Critic:
    """Zero at first: every state promises nothing."""

    def __init__(self, width: int, config: CriticConfig) -> None:
        self._config = config
        self._weight = torch.zeros(width, requires_grad=True)
        self._bias = torch.zeros((), requires_grad=True)
        self._optimizer = torch.optim.AdamW(
            [self._weight, self._bias], lr=config.lr, weight_decay=0.0
        )

    def values(self, hidden: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
        return hidden.detach() @ self._weight + self._bias

    def loss(
        self,
        hidden: Float[Tensor, "N D"],
        old: Float[Tensor, " N"],
        returns: Float[Tensor, " N"],
        weights: Float[Tensor, " N"],
    ) -> float:
        """Add the gradient of the weighted loss of these tokens; returns the loss."""
        per_token = value_loss(self.values(hidden), old, returns, self._config.clip)
        loss = (per_token * weights).sum()
        torch.autograd.backward(loss)
        return float(loss.detach())

    def gradients(self) -> list[Tensor]:
        """What `loss` has added up, zeros where it never was."""
        for parameter in (self._weight, self._bias):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [grad for grad in (self._weight.grad, self._bias.grad) if grad is not None]

    def step(self) -> None:
        """One optimizer step with what `loss` has added up."""
        torch.nn.utils.clip_grad_norm_([self._weight, self._bias], MAX_GRAD_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Parameters and the optimizer's state, to be saved."""
        found: dict[str, Tensor] = {}
        for name, parameter in (("weight", self._weight), ("bias", self._bias)):
            found[name] = parameter.detach().clone()
            for key, value in self._optimizer.state.get(parameter, {}).items():
                found[f"{name}.{key}"] = torch.as_tensor(value).clone()
        return found

    def load(self, state: dict[str, Tensor]) -> None:
        for name, parameter in (("weight", self._weight), ("bias", self._bias)):
            with torch.no_grad():
                parameter.copy_(state[name])
            own = {
                k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")
            }
            self._optimizer.state.pop(parameter, None)
            if own:
                self._optimizer.state[parameter] = own
