"""What can go wrong, by who must act: the user, the caller, the operator.

Every message has three parts: what was asked, what the limit is, what to change.
The HTTP status beside each class is what the server answers with.
"""

from __future__ import annotations


class EvoluteError(Exception):
    """Base of every error that Evolute raises on purpose."""

    status = 500


class ConfigError(EvoluteError, ValueError):
    """Settings that cannot work; raised before anything starts."""

    status = 400


class ModelError(ConfigError):
    """A model file that is missing, damaged, or of a kind we cannot load."""


class RequestError(EvoluteError, ValueError):
    """This request cannot be served; others go on."""

    status = 400


class PromptTooLong(RequestError):
    """Prompt and requested output do not fit the model's context."""


class UnknownAdapter(RequestError):
    """The request names an adapter that is not loaded."""

    status = 404


class BadGrammar(RequestError):
    """The grammar, regex or JSON schema of a request cannot be compiled."""


class NotSupported(RequestError):
    """A valid field or endpoint that this model or build cannot honour."""

    status = 501


class OutOfCapacity(EvoluteError):
    """Not now: queue or memory is full. `retry_after_s` says when to try again."""

    status = 503

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineMissed(OutOfCapacity):
    """The first token was wanted earlier than it can be had; nothing was made."""


class BackendError(EvoluteError):
    """A model service failed or answered with something that is not an answer."""

    status = 502


class BudgetSpent(EvoluteError):
    """The budget of calls or tokens does not allow this call; nothing was sent."""


class ProgramError(EvoluteError):
    """A program's generation failed: named with its file and line; `__cause__` says why."""


class EpisodeError(EvoluteError):
    """One episode failed; it is recorded on the rollout and its siblings go on."""


class SandboxError(EpisodeError):
    """The sandbox could not be started or broke."""


class ToolError(EpisodeError):
    """A call of a tool that failed; where the model can do something, the text tells it what."""


class WorkerLost(EpisodeError):
    """The process that played an episode has ended; the episode may be played elsewhere."""


class RewardError(EpisodeError):
    """The verifier itself failed, so the reward is not valid."""


class TrainingError(EvoluteError):
    """A run-time invariant of training does not hold; the step was not applied."""


class CheckpointError(EvoluteError):
    """A checkpoint could not be written or read; the last good one is untouched."""


class WireError(EvoluteError):
    """Bytes that are not ours, or of a version we do not speak."""


class NoPlan(EvoluteError):
    """No plan meets the limits; the text says which limit binds."""
