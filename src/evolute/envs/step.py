"""What a world's answers mean, whoever wrote the world.

read_step(answer) -> StepResult      from a StepResult, or a dict as skyrl-gym's worlds return
read_messages(messages)              a conversation, checked
read_metrics(metrics)                the numbers among them

A world that answers nonsense is a failed episode with a message, not a wrong reward.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from evolute.types import EpisodeError, Message, RewardError, StepResult

NEEDED = ("observations", "reward", "done")
KEYS = (*NEEDED, "metadata", "postprocessed_action")


def read_step(answer: StepResult | Mapping[str, Any]) -> StepResult:
    """The answer as a StepResult with a finite reward. Raises EpisodeError for anything else."""
    fields = _fields(answer)
    reward = fields["reward"]
    try:
        reward = float(reward)
    except (TypeError, ValueError) as error:
        raise RewardError(f"the world's reward is {reward!r}; it must be one number.") from error
    if not math.isfinite(reward):
        raise RewardError(f"the world's reward is {reward}; it must be finite.")
    return StepResult(
        tuple(read_messages(fields["observations"] or ())),
        reward,
        bool(fields["done"]),
        fields.get("metadata") or {},
        fields.get("postprocessed_action"),
    )


def read_messages(messages: Sequence[Message]) -> list[Message]:
    """The messages themselves. Raises EpisodeError unless each has a role and a text."""
    for message in messages:
        if not isinstance(message, Mapping) or not all(
            isinstance(message.get(key), str) for key in ("role", "content")
        ):
            raise EpisodeError(
                f"the world said {message!r}; a message is a dict of texts, role and content."
            )
    return list(messages)


def read_metrics(metrics: Mapping[str, Any] | None) -> dict[str, float]:
    """Numbers by name; what is none is left out."""
    found = (metrics or {}).items()
    return {str(name): float(value) for name, value in found if isinstance(value, Real)}


# -- internals ---------------------------------------------------------------


def _fields(answer: StepResult | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(answer, StepResult):
        return {key: getattr(answer, key) for key in KEYS}
    if not isinstance(answer, Mapping):
        raise EpisodeError(
            f"the world's step gave a {type(answer).__name__}; it must be a StepResult or a dict."
        )
    missing, unknown = set(NEEDED) - answer.keys(), answer.keys() - set(KEYS)
    if missing or unknown:
        raise EpisodeError(
            f"the world's step has the keys {sorted(answer)}; missing: {sorted(missing)}, "
            f"unknown: {sorted(unknown)}."
        )
    return answer
