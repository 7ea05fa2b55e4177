"""Small models, taught to act badly through tools, that learn by reinforcement to act well."""

from evolute.bench.pupils.learning import Sizes, evaluated, figures, learn, taught
from evolute.bench.pupils.pupil import tool_pupil
from evolute.bench.pupils.teacher import Teacher
from evolute.bench.pupils.world import World
from evolute.bench.pupils.worlds import WORLDS

__all__ = [
    "WORLDS",
    "Sizes",
    "Teacher",
    "World",
    "evaluated",
    "figures",
    "learn",
    "taught",
    "tool_pupil",
]
