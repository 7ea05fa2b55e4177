"""Which other models does an algorithm need beside the one in training?

companions(model, config) -> Companions(reference, teacher)
"""

from __future__ import annotations

from dataclasses import dataclass

from evolute.models import LoadedModel, load_model
from evolute.train.policy import Policy
from evolute.train.settings import TrainConfig
from evolute.types import ConfigError

PROBE = "Hello, world! 12 + 30 = 42\n\tdef f(x): return 'ñ'"


@dataclass(frozen=True, slots=True)
class Companions:
    """None where it is not needed. Both are frozen."""

    reference: Policy | None = None  # with an adapter in training, the policy without it does
    teacher: Policy | None = None


def companions(model: LoadedModel, config: TrainConfig) -> Companions:
    """Raises ConfigError for a teacher with another tokenizer, ModelError for none."""
    algorithm = config.algorithm
    needs_reference = algorithm.kl.is_active and config.method == "full"
    teacher = _teacher(model, algorithm.teacher) if algorithm.teacher else None
    return Companions(_frozen(model) if needs_reference else None, teacher)


def _frozen(model: LoadedModel) -> Policy:
    policy = Policy(model, None)
    policy.decoder.requires_grad_(False)
    return policy


def _teacher(student: LoadedModel, name: str) -> Policy:
    loaded = load_model(name)
    _check_tokens(student, loaded, name)
    return _frozen(loaded)


def _check_tokens(student: LoadedModel, teacher: LoadedModel, name: str) -> None:
    ours, theirs = student.tokenizer.encode(PROBE), teacher.tokenizer.encode(PROBE)
    if ours != theirs or teacher.config.vocab_size < student.config.vocab_size:
        raise ConfigError(
            f"the teacher {name!r} has another tokenizer than the model, so that its probabilities "
            "are of other tokens. Choose a teacher of the same family."
        )
