"""The system itself as a world: a space of settings, trials in subprocesses, a frozen judge."""

from evolute.envs.tuning.judge import MAX_PAIRS, Judge, Judgement, Ratio, Verdict, interval
from evolute.envs.tuning.space import Change, Dimension, Space, engine_space
from evolute.envs.tuning.trial import Measurement, Runner, SubprocessRunner

__all__ = [
    "MAX_PAIRS",
    "Change",
    "Dimension",
    "Judge",
    "Judgement",
    "Measurement",
    "Ratio",
    "Runner",
    "Space",
    "SubprocessRunner",
    "Verdict",
    "engine_space",
    "interval",
]
