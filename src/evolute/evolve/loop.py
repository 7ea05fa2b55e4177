"""The system loop: propose, try, judge, keep or drop, write it down.

    baseline -> [proposer -> change -> judge (A B A B ...) -> ledger] x budget -> confirm -> best
                    ^                        |
                    +------ history ---------+

The current best is what the next change is compared with; at the end the winner is measured
afresh against the original baseline. "Nothing beats the default" is a valid result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evolute.envs.tuning import Change, Judge, Judgement, Ratio, Space, Verdict
from evolute.evolve.history import best as kept
from evolute.evolve.history import points
from evolute.evolve.ledger import Ledger, Trial
from evolute.evolve.proposers import Proposer


@dataclass(frozen=True, slots=True)
class TuneReport:
    """The winner and its confirmed ratio to the original baseline; None: nothing beat it."""

    best: Change | None
    ratio: Ratio | None
    num_trials: int
    why: str
    tokens_per_s: tuple[float, float] | None = None  # before and after, when it was confirmed


async def tune(
    space: Space,
    judge: Judge,
    proposers: Sequence[Proposer],
    ledger: Ledger,
    *,
    max_trials: int,
    on_trial: Callable[[Trial], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TuneReport:
    """Spend at most `max_trials` trials, those already in the ledger included."""
    if not ledger.of_judge(judge.digest):
        _write(
            ledger, judge, "baseline", {}, 0, Judgement(Verdict.KEEP, "the system as it is"), 0.0
        )
    best, best_id = kept(ledger.of_judge(judge.digest))
    while len(ledger.of_judge(judge.digest)) <= max_trials and not should_stop():
        history = ledger.of_judge(judge.digest)
        proposer = proposers[len(history) % len(proposers)]
        started = time.perf_counter()
        change = await proposer.propose(space, history)
        judgement = await _try(space, judge, best, change, history)
        trial = _write(
            ledger, judge, proposer.name, change, best_id, judgement, time.perf_counter() - started
        )
        if trial.verdict is Verdict.KEEP:
            best, best_id = {**best, **change}, trial.id
        if on_trial:
            on_trial(trial)
    num_trials = len(ledger.of_judge(judge.digest)) - 1
    if should_stop():
        return TuneReport(None, None, num_trials, "stopped; the ledger keeps what was tried")
    return await _confirm(judge, best, num_trials)


# -- internals ---------------------------------------------------------------


async def _try(
    space: Space, judge: Judge, best: Change, change: Change, history: Sequence[Trial]
) -> Judgement:
    try:
        space.check(change)
    except ValueError as error:
        return Judgement(Verdict.CRASH, str(error))
    candidate = {**best, **change}
    settings = space.settings(candidate)
    if settings == space.settings(best):
        return Judgement(Verdict.DISCARD, "the same as the current best")
    if any(settings == space.settings(point.change) for point in points(history)):
        return Judgement(Verdict.DISCARD, "tried before")
    return await judge.judge(best, candidate)


async def _confirm(judge: Judge, best: Change, num_trials: int) -> TuneReport:
    if not best:
        return TuneReport(None, None, num_trials, "nothing beats the settings in force")
    final = await judge.judge({}, best)
    if final.verdict is not Verdict.KEEP:
        why = f"the winner was not confirmed against the original settings: {final.why}"
        return TuneReport(None, final.ratio, num_trials, why)
    return TuneReport(best, final.ratio, num_trials, final.why, final.tokens_per_s)


def _write(
    ledger: Ledger,
    judge: Judge,
    proposer: str,
    change: Change,
    parent: int,
    judgement: Judgement,
    seconds: float,
) -> Trial:
    trial = Trial(
        len(ledger.trials),
        parent,
        proposer,
        change,
        judge.digest,
        judgement.verdict,
        judgement.why,
        judgement.ratio,
        seconds,
    )
    ledger.append(trial)
    return trial
