"""What did a run of agents come to? Rollouts and the dispatcher's books as figures.

    summary(rollouts, endings, stats) -> {...}       accuracy with its interval, ratios, times

Failed rollouts are out of every figure but their own count.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from evolute.agents.dispatcher import Ending, Stage
from evolute.agents.setup import Stop
from evolute.envs import Interval, mean_interval, wilson
from evolute.types import Outcome, Rollout


def summary(
    rollouts: Sequence[Rollout],
    endings: Sequence[Ending[Any]] = (),
    stats: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """JSON-able. `endings` are of this process alone, after a resume fewer than the rollouts."""
    valid = [rollout for rollout in rollouts if rollout.outcome is not Outcome.FAILED]
    interval = accuracy(valid)
    groups = _by_group(valid)
    solved = [[member.metrics["accuracy"] >= 1 for member in group] for group in groups]
    return {
        "n": len(valid),
        "problems": len(groups),
        "accuracy": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "reward": _mean([rollout.reward for rollout in valid]),
        "failed": len(rollouts) - len(valid),
        "failures": dict(Counter(r.failure for r in rollouts if r.failure)),
        "truncated": sum(rollout.outcome is Outcome.TRUNCATED for rollout in valid),
        "all_solved": sum(all(members) for members in solved),
        "none_solved": sum(not any(members) for members in solved),
        **{f"{stop}_ratio": _mean([r.metrics[f"stop/{stop}"] for r in valid]) for stop in Stop},
        "turns": _mean([rollout.metrics["turns"] for rollout in valid]),
        "samples": _mean([float(len(rollout.samples)) for rollout in valid]),
        "tokens": _mean([_tokens(rollout) for rollout in valid]),
        "gradient_token_frac": _gradient_share(valid),
        "mistakes": _each(valid, "mistakes"),
        "tool_calls": _each(valid, "tool_calls"),
        "stages": _stages(endings),
        "dispatch": dict(stats or {}),
    }


def accuracy(valid: Sequence[Rollout]) -> Interval:
    """Wilson's interval with one rollout a problem; else Student's over the problems' means, as
    rollouts of one problem are not independent."""
    groups = _by_group(valid)
    shares = [_mean([float(r.metrics["accuracy"] >= 1) for r in group]) for group in groups]
    if all(len(group) == 1 for group in groups):
        return wilson(sum(share >= 1 for share in shares), len(shares))
    if len(shares) < 2:
        return Interval(_mean(shares), 0.0, 1.0)
    found = mean_interval(shares)
    return Interval(found.mean, max(found.low, 0.0), min(found.high, 1.0))


# -- internals ---------------------------------------------------------------


def _by_group(rollouts: Sequence[Rollout]) -> list[list[Rollout]]:
    groups: dict[int, list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        groups[rollout.group].append(rollout)
    return list(groups.values())


def _tokens(rollout: Rollout) -> float:
    """That the engine was given or made, once each."""
    return float(sum(len(s.prompt_ids) + len(s.response_ids) for s in rollout.samples))


def _gradient_share(rollouts: Sequence[Rollout]) -> float:
    trained = sum(sum(sample.loss_mask) for r in rollouts for sample in r.samples)
    whole = sum(_tokens(rollout) for rollout in rollouts)
    return trained / whole if whole else 0.0


def _each(rollouts: Sequence[Rollout], name: str) -> dict[str, float]:
    """Mean number a rollout, of all and of each kind."""
    kinds = {key for r in rollouts for key in r.metrics if key.startswith(name + "/")}
    found = {"all": _mean([rollout.metrics.get(name, 0.0) for rollout in rollouts])}
    for kind in sorted(kinds):
        numbers = [rollout.metrics.get(kind, 0.0) for rollout in rollouts]
        found[kind.removeprefix(name + "/")] = _mean(numbers)
    return found


def _stages(endings: Sequence[Ending[Any]]) -> dict[str, dict[str, float]]:
    """Mean seconds, of those who came that far."""
    found = {}
    for stage in Stage:
        times = [ending.times[stage] for ending in endings if stage in ending.times]
        if times:
            found[str(stage)] = {
                "wait_s": _mean([each.wait_s for each in times]),
                "service_s": _mean([each.service_s for each in times]),
                "handover_s": _mean([each.handover_s for each in times]),
            }
    return found


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0
