"""Programming problems as tasks: graded by running the answer in a sandbox."""

from evolute.envs.code.compare import same, same_output
from evolute.envs.code.problem import CodeProblem, Test, code_problem
from evolute.envs.code.source import code_of, entry_point_of

__all__ = [
    "CodeProblem",
    "Test",
    "code_of",
    "code_problem",
    "entry_point_of",
    "same",
    "same_output",
]
