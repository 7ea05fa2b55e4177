"""Credit of a response from the rewards of its group: GRPO, Dr. GRPO, RLOO as one rule.

advantage = (reward - mean) * gain / spread

grpo      gain 1, spread = sample std + 1e-6     (Shao et al. 2024)
dr_grpo   gain 1, spread 1                       (Liu et al. 2025)
rloo      gain n / (n - 1), spread 1: reward minus the mean of the others (Ahmadian et al. 2024)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evolute.types import ConfigError
from evolute.types.settings import nearest

STD_EPS = 1e-6
RULES = {"grpo": (False, True), "dr_grpo": (False, False), "rloo": (True, False)}


def group_advantages(rewards: Sequence[float], rule: str = "grpo") -> list[float]:
    """One advantage for each reward of a group. A group of one teaches nothing: 0."""
    if rule not in RULES:
        raise ConfigError(f"no advantage rule {rule!r}. {nearest(rule, RULES)}")
    leave_one_out, by_std = RULES[rule]
    n = len(rewards)
    if n < 2:
        return [0.0] * n
    values = np.asarray(rewards, np.float64)
    centered = values - values.mean()
    gain = n / (n - 1) if leave_one_out else 1.0
    spread = values.std(ddof=1) + STD_EPS if by_std else 1.0
    return [float(a) for a in centered * gain / spread]
