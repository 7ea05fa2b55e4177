"""What has every world of tools in common: it starts, it closes whatever happens.

    SessionWorld      a sandbox's session from `start` to `close`
    Call              one call of a tool, as a demonstration gives it

A world closed before its start has ended starts no more: what it acquired goes at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Protocol

from evolute.envs.sandbox.bubblewrap import Bubblewrap
from evolute.envs.sandbox.contract import Sandbox, SandboxLimits
from evolute.envs.sandbox.session import SESSION_LIMITS, Session
from evolute.types import ConfigError, EpisodeError, Problem

Call = tuple[str, Mapping[str, Any]]  # a tool's name, its arguments


class Demonstrated(Protocol):
    """A family that can show how each of its problems is solved, the last call being `finish`."""

    def gold_calls(self, problem: Problem) -> Sequence[Call]: ...


class Lifetime:
    """`start` and `close` of a world. Subclasses acquire in `open`, onto the stack."""

    def __init__(self) -> None:
        self._stack, self._is_closed = AsyncExitStack(), False

    async def start(self) -> None:
        """Raises EpisodeError when the world has been closed meanwhile."""
        if self._is_closed:
            raise EpisodeError("the world was closed before it started.")
        await self.open(self._stack)
        if self._is_closed:
            await self._stack.aclose()
            raise EpisodeError("the world was closed while it started.")

    async def open(self, stack: AsyncExitStack) -> None:
        """Acquire what the episode needs."""

    async def close(self) -> None:
        self._is_closed = True
        await self._stack.aclose()


class SessionWorld(Lifetime):
    """A world whose tools work in one sandbox. `session` is there from `start` on."""

    def __init__(self, sandbox: Bubblewrap, files: Mapping[str, bytes] | None = None) -> None:
        super().__init__()
        self._sandbox, self._files = sandbox, dict(files or {})
        self.limits: SandboxLimits = SESSION_LIMITS
        self._session: Session | None = None

    async def open(self, stack: AsyncExitStack) -> None:
        opened = self._sandbox.open(self.limits, self._files)
        self._session = await stack.enter_async_context(opened)

    @property
    def session(self) -> Session:
        if self._session is None:
            raise EpisodeError("the world has not been started; call `start` first.")
        return self._session


def with_sessions(sandbox: Sandbox, what: str) -> Bubblewrap:
    """The sandbox, if it can stay open. Raises ConfigError for one that holds nothing."""
    if not isinstance(sandbox, Bubblewrap):
        raise ConfigError(
            f"{what} needs a sandbox that stays open for an episode, which is bubblewrap alone: "
            "install it, and leave --unsafe-no-sandbox."
        )
    return sandbox
