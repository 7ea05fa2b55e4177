"""What did the seeds show? Accuracies, costs and their intervals, from answers alone.

    figures_of(seeds, structure, content) -> figures by name
    notes_of(seeds) -> what a reader must know

A cost is the accuracy of right traces minus the variant's, on the same problems. Intervals, 95 %:
of a variant over all seeds' problems (Wilson; Newcombe for the paired cost), which leaves out how
trainings differ; of the difference between the two groups over seeds (Student's t), which has it;
of the ratio of their costs by drawing problems again, within seeds.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping, Sequence
from statistics import fmean

from evolute.bench.demonstrations.probes import Answers
from evolute.envs.intervals import mean_interval, paired_difference, wilson
from evolute.reasoning.demonstrations.measures import gain_kept

Seeds = Sequence[Mapping[str, Answers]]
DRAWS = 1000  # of the problems, for the ratio
ROOM = 0.25  # a gain below it leaves nothing to lose
SIGNS = ("words", "reflections", "first_goes_back", "unfinished", "coherence", "valid")


def figures_of(
    seeds: Seeds, structure: Collection[str], content: Collection[str]
) -> dict[str, float]:
    """Means over seeds, and intervals."""
    found: dict[str, float] = {}
    for name in seeds[0]:
        rights = [seed[name].right for seed in seeds]
        share = wilson(sum(map(sum, rights)), sum(map(len, rights)))
        found |= {f"accuracy/{name}": share.mean}
        found |= {f"accuracy_low/{name}": share.low, f"accuracy_high/{name}": share.high}
        found |= {f"{sign}/{name}": fmean(getattr(s[name], sign) for s in seeds) for sign in SIGNS}
    for name in seeds[0].keys() - {"correct"}:
        lost = paired_difference(_pooled(seeds, name), _pooled(seeds, "correct"))
        found |= {f"cost/{name}": lost.mean}
        found |= {f"cost_low/{name}": lost.low, f"cost_high/{name}": lost.high}
    base, right = found["accuracy/base"], found["accuracy/correct"]
    for name in seeds[0].keys() - {"base", "correct"} if right != base else ():
        found[f"kept/{name}"] = gain_kept(base, right, found[f"accuracy/{name}"])
    return found | _groups(seeds, structure, content)


def notes_of(seeds: Seeds) -> tuple[str, ...]:
    count = sum(len(seed["base"].right) for seed in seeds)
    gain = fmean(seed["correct"].accuracy - seed["base"].accuracy for seed in seeds)
    notes = [f"{count} held-out problems over {len(seeds)} seeds, one taught student"]
    if gain < ROOM:
        notes.append(f"right traces gain {100 * gain:.0f} points only: costs have little room")
    return tuple(notes)


# -- internals ---------------------------------------------------------------


def _groups(seeds: Seeds, structure: Collection[str], content: Collection[str]) -> dict[str, float]:
    """Mean costs of the two groups. As in the paper's comparison all digits random is not counted:
    it leaves no value that could be right; nor is the least share of structure, a third."""
    counted = [name for name in content if not name.startswith("digits-100")]
    names = {
        "structure": [n for n in structure if n in seeds[0] and not n.endswith("-33")],
        "content": [name for name in counted if name in seeds[0]],
    }
    if not all(names.values()):
        return {}
    costs = {
        group: [fmean(s["correct"].accuracy - s[n].accuracy for n in members) for s in seeds]
        for group, members in names.items()
    }
    found = {f"cost/{group}": fmean(values) for group, values in costs.items()}
    more = [s - c for s, c in zip(costs["structure"], costs["content"])]
    found["structure_above_content"] = fmean(more)
    found |= _ratio(seeds, names["structure"], names["content"])
    if len(more) > 1:
        ends = mean_interval(more)
        found |= {
            "structure_above_content_low": ends.low,
            "structure_above_content_high": ends.high,
        }
    return found


def _ratio(seeds: Seeds, structure: Sequence[str], content: Sequence[str]) -> dict[str, float]:
    """Cost of structure over cost of content; without a bound where content costs nothing."""
    draws = random.Random(0)
    per_problem = [
        [_costs(seed, n, structure, content) for n in range(len(seed["correct"].right))]
        for seed in seeds
    ]
    means = [_mean_pair([draws.choice(s) for s in per_problem for _ in s]) for _ in range(DRAWS)]
    ratios = sorted(a / b if b > 0 else math.inf for a, b in means)
    whole, cost = _mean_pair([pair for seed in per_problem for pair in seed])
    found = {
        "structure_to_content": whole / cost if cost > 0 else math.inf,
        "structure_to_content_low": ratios[int(0.025 * DRAWS)],
        "structure_to_content_high": ratios[int(0.975 * DRAWS)],
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _costs(
    seed: Mapping[str, Answers], number: int, structure: Sequence[str], content: Sequence[str]
) -> tuple[float, float]:
    """Mean costs of the two groups on one problem."""
    right = seed["correct"].right[number]
    structural, told = (
        fmean(right - seed[name].right[number] for name in group) for group in (structure, content)
    )
    return structural, told


def _mean_pair(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return fmean(a for a, _ in pairs), fmean(b for _, b in pairs)


def _pooled(seeds: Seeds, name: str) -> dict[str, bool]:
    return {
        f"{i}/{n}": right
        for i, seed in enumerate(seeds)
        for n, right in enumerate(seed[name].right)
    }
