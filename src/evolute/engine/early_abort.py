"""Which requests that wait are to be ended, because their first token would come too late?

    early.arrived(drafts, deadline_s, now)    it is wanted within that time; 0: whenever it comes
    early.before(core, now) -> [Late]         to be ended; and tells the policy who is to go first
    early.after(core, now, seconds, tokens)   what the step did: measured rates are made of it
    early.forget(request_id)                  it has ended
    early.next_due_s()                        when to look again, if nothing happens

The time that a first token still needs is the measured pace of late steps times what is to be
computed. A request is never ended before half of its time has passed, so that no estimate, however
wrong, turns everybody away; never after it was admitted once; and never one of its outputs alone.
The clock is the loop's; what is decided is `scheduling/deadlines.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from evolute.engine.core import EngineCore
from evolute.engine.output import Draft
from evolute.engine.scheduling.deadlines import Deadlines, Overload, Pace, Rate

LEAST_RETRY_S, MOST_RETRY_S = 1.0, 60.0


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """One request whose first token is wanted within `deadline_s` of its arrival."""

    drafts: tuple[Draft, ...]
    arrived_s: float
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Late:
    """Drafts to be ended, why, and when to try again."""

    drafts: tuple[Draft, ...]
    why: str
    retry_after_s: float


@dataclass(slots=True)
class EarlyAbort:
    """Of effect only while a request with a deadline waits."""

    _deadlines: Deadlines[Wanted] = field(default_factory=Deadlines)
    _wanted: dict[str, Wanted] = field(default_factory=dict)  # by request id, while it waits
    _overload: Overload = field(default_factory=Overload)
    _pace: Pace = field(default_factory=Pace)
    _admissions: Rate = field(default_factory=Rate)
    _longest: int = 0  # prompt of those that wait

    def arrived(self, drafts: Sequence[Draft], deadline_s: float, now: float) -> None:
        if not deadline_s:
            return
        wanted = Wanted(tuple(drafts), now, deadline_s)
        self._wanted[drafts[0].request.id] = wanted
        self._deadlines.add(wanted, now + deadline_s)
        self._longest = max(self._longest, drafts[0].sequence.prompt_len)
        for draft in drafts:
            draft.sequence.has_deadline = True

    def forget(self, request_id: str) -> None:
        """Unknown ones are ignored."""
        wanted = self._wanted.pop(request_id, None)
        if wanted is not None:
            self._deadlines.drop(wanted)

    def next_due_s(self) -> float | None:
        return self._deadlines.next_due_s() if self._wanted else None

    def before(self, core: EngineCore, now: float) -> list[Late]:
        if not self._wanted:
            self._longest, core.queue.newest_first = 0, False
            return []
        core.queue.newest_first = self._overload.look(core.num_waiting)
        budget = core.settings.config.token_budget - len(core.running)

        def need_s(wanted: Wanted) -> float:
            found = core.placement.look_up(wanted.drafts[0].sequence)
            tokens = found.sequence.num_tokens - found.num_cached
            return min(self._pace.need_s(tokens, budget), wanted.deadline_s / 2)

        late = self._deadlines.late(now, need_s, self._pace.need_s(self._longest, budget))
        for wanted in late:
            self._wanted.pop(wanted.drafts[0].request.id, None)
        return [self._late(wanted, core, now, need_s(wanted)) for wanted in late]

    def after(self, core: EngineCore, now: float, seconds: float, tokens: int) -> None:
        if tokens:
            self._pace.note(seconds, tokens)
        if core.admitted:
            self._overload.admitted(len(core.admitted), core.num_waiting)
            self._admissions.note(now, len(core.admitted))
        for draft in core.admitted:
            self.forget(draft.request.id)

    def _late(self, wanted: Wanted, core: EngineCore, now: float, need_s: float) -> Late:
        per_s = self._admissions.per_s(now)
        wait_s = core.num_waiting / per_s if per_s > 0 else MOST_RETRY_S
        retry_s = min(max(wait_s, LEAST_RETRY_S), MOST_RETRY_S)
        why = (
            f"the first token was wanted within {wanted.deadline_s:g} s; it has waited "
            f"{now - wanted.arrived_s:.2f} s and would take {need_s:.2f} s more, with "
            f"{core.num_waiting} outputs waiting and {per_s:.1f} admitted a second. Try again in "
            f"{retry_s:.0f} s, or raise deadline_s (engine.first_token_deadline_s)."
        )
        return Late(wanted.drafts, why, retry_s)
