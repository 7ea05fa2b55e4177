"""S*: test-time scaling for programs, and every policy it is compared with."""

from evolute.reasoning.s_star.judge import Case, calibrate
from evolute.reasoning.s_star.method import SStar, make_s_star
from evolute.reasoning.s_star.settings import SStarConfig

__all__ = ["Case", "SStar", "SStarConfig", "calibrate", "make_s_star"]
