"""Calls of a group of actors: all answer, or it is known who did not, and nobody waits for ever.

    calls = Calls(ray, name)
    calls.all(actors, method, *args, timeout_s=) -> answers by place
    calls.awaited()          who has not answered yet, for the watch-dog
    calls.stop()             whoever waits gets a GroupError soon

Whatever goes wrong is a GroupError that names the member.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from evolute.engine.replicas.actor import Failed
from evolute.types import TrainingError

POLL_S = 0.5
GRACE_S = 20.0  # for the others, once one has failed


@runtime_checkable
class Actors(Protocol):
    """As much of `Cluster` as a group needs."""

    @property
    def ray(self) -> Any: ...
    def start_actor(
        self, cls: type, args: tuple[Any, ...], num_cpus: int, **options: Any
    ) -> Any: ...
    def kill(self, actor: Any) -> None: ...


class GroupError(TrainingError):
    """A group call that did not end well; the group is of no use any more."""


class Calls:
    """Calls go to one group at a time; `name` is what a member is called."""

    def __init__(self, ray: Any, name: str) -> None:
        self._ray, self._name = ray, name
        self._open: dict[Any, int] = {}
        self._method = ""
        self._stopping = threading.Event()

    def awaited(self) -> list[str]:
        return [f"{self._name} {place} ({self._method})" for place in sorted(self._open.values())]

    def stop(self) -> None:
        self._stopping.set()

    def all(self, actors: Sequence[Any], method: str, *args: Any, timeout_s: float) -> list[Any]:
        """Raises GroupError that names the member which died, failed, or did not answer."""
        self._method = method
        self._open = {getattr(actor, method).remote(*args): i for i, actor in enumerate(actors)}
        answers: dict[int, Any] = {}
        failed: dict[int, Failed] = {}
        until_s = time.monotonic() + timeout_s
        try:
            while self._open:
                self._check_time(until_s, failed, timeout_s)
                ready, _ = self._ray.wait(list(self._open), num_returns=1, timeout=POLL_S)
                for ref in ready:
                    place = self._open.pop(ref)
                    answer = self._get(ref, place, len(actors))
                    if isinstance(answer, Failed):
                        failed[place] = answer
                        until_s = min(until_s, time.monotonic() + GRACE_S)
                    answers[place] = answer
        finally:
            self._open = {}
        if failed:
            raise self._refused(failed)
        return [answers[place] for place in range(len(actors))]

    # -- internals ---------------------------------------------------------------

    def _check_time(self, until_s: float, failed: dict[int, Failed], timeout_s: float) -> None:
        if self._stopping.is_set():
            raise GroupError(f"the run ends; {', '.join(self.awaited())} were not waited for.")
        if time.monotonic() < until_s:
            return
        if failed:
            raise self._refused(failed)
        raise GroupError(
            f"no answer within {timeout_s:g} s from {', '.join(self.awaited())}. The step was not "
            "applied; run the same command again to resume, or set ray.collective_timeout_s higher."
        )

    def _get(self, ref: Any, place: int, size: int) -> Any:
        try:
            return self._ray.get(ref, timeout=POLL_S * 20)
        except self._ray.exceptions.RayActorError as error:
            why = str(error).strip().splitlines()[0]
            raise GroupError(
                f"{self._name} {place} of {size} is gone while it did `{self._method}` ({why}). "
                "The step was not applied; run the same command again to resume it."
            ) from error
        except self._ray.exceptions.RayTaskError as error:
            why = str(error).strip().splitlines()[-1]
            raise GroupError(f"{self._name} {place} failed in `{self._method}`: {why}") from error

    def _refused(self, failed: dict[int, Failed]) -> TrainingError:
        """What the first one said, if it was an error of its own and not of its fellows."""
        place = next((p for p, f in failed.items() if "nobody goes on" not in str(f.error)), None)
        place = min(failed) if place is None else place
        error = failed[place].error
        text = f"{error} ({self._name} {place})" if len(failed) < 2 else str(error)
        if isinstance(error, TrainingError):
            return GroupError(text)
        return GroupError(f"{self._name} {place}: {type(error).__name__}: {error}")
