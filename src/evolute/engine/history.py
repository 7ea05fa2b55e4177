"""What became of recent requests, and why one that waits must wait.

    history.arrived(draft, now), admitted(draft, now, why, since), told(draft, now)
    history.recent() -> list[Visit]        newest first, bounded
    history.visit(draft)                   of one in flight
    explain(core, draft) -> Explanation

Times are the loop's; the core has no clock.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from evolute.engine.core import EngineCore
from evolute.engine.output import Draft
from evolute.engine.scheduling import Blocked

KEPT = 512  # finished outputs that are remembered


@dataclass(slots=True)
class Visit:
    """One output's way through the engine; times in seconds, None: not yet."""

    request_id: str
    index: int
    tenant: str
    adapter: str | None
    prompt_tokens: int
    arrived_s: float
    waited_s: float | None = None  # until it was admitted
    waited_for: str = ""  # the limit that was in its way
    first_token_s: float | None = None  # since its arrival
    total_s: float | None = None
    cached_tokens: int = 0
    output_tokens: int = 0
    preemptions: int = 0
    finish_reason: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where one output is, and why."""

    request_id: str
    index: int
    state: str  # waiting, running
    tenant: str
    why: str  # by the policy
    limit: str  # what stopped the last admission; empty when nothing did
    prompt_tokens: int
    cached_tokens: int  # that the prefix cache has for it
    computed_tokens: int
    output_tokens: int
    passed_over: int
    preemptions: int


class History:
    """Visits of drafts in flight, and of those that ended last."""

    def __init__(self) -> None:
        self._now: dict[Draft, Visit] = {}
        self._ended: deque[Visit] = deque(maxlen=KEPT)

    def arrived(self, draft: Draft, now: float) -> None:
        request = draft.request
        self._now[draft] = Visit(
            request.id, draft.index, request.tenant, request.adapter, len(request.prompt), now
        )

    def admitted(self, draft: Draft, now: float, why: str, since: float = math.inf) -> None:
        """Of effect the first time only: a preempted one is admitted again. `why` is what stopped
        the step that began at `since`; who came later did not wait for that."""
        visit = self._now.get(draft)
        if visit is not None and visit.waited_s is None:
            visit.waited_s = now - visit.arrived_s
            visit.waited_for = why if visit.arrived_s < since else ""

    def told(self, draft: Draft, now: float) -> None:
        """It got something new: a token, or its end."""
        visit = self._now.get(draft)
        if visit is None:
            return
        if visit.first_token_s is None and draft.token_ids:
            visit.first_token_s = now - visit.arrived_s
        if draft.output is not None:
            visit.total_s = now - visit.arrived_s
            visit.cached_tokens = draft.output.cached_tokens
            visit.output_tokens = len(draft.output.token_ids)
            visit.preemptions = draft.output.num_preemptions
            visit.finish_reason = draft.output.finish_reason.value
            self._ended.appendleft(self._now.pop(draft))

    def visit(self, draft: Draft) -> Visit:
        """Of a draft in flight; KeyError for others."""
        return self._now[draft]

    def recent(self) -> list[Visit]:
        return list(self._ended)


def explain(core: EngineCore, draft: Draft) -> Explanation:
    """For a draft in flight."""
    sequence = draft.sequence
    is_running = sequence in core.running
    cached = sequence.num_cached if is_running else core.placement.look_up(sequence).num_cached
    return Explanation(
        draft.request.id,
        draft.index,
        "running" if is_running else "waiting",
        sequence.tenant,
        _share(core, sequence.tenant) if is_running else core.queue.explain(sequence),
        "" if is_running else describe(core.blocked),
        sequence.prompt_len,
        cached or 0,
        sequence.num_computed,
        sequence.num_generated,
        sequence.passed_over,
        sequence.num_preemptions,
    )


def describe(blocked: Blocked | str | None) -> str:
    """The limit in words."""
    if blocked is None:
        return ""
    return blocked if isinstance(blocked, str) else blocked.why


# -- internals ---------------------------------------------------------------


def _share(core: EngineCore, tenant: str) -> str:
    own = sum(sequence.tenant == tenant for sequence in core.running)
    return f"running; its tenant has {own} of {len(core.running)} places"
