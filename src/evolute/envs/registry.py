"""Tasks by name.

make_task("addition-2"), make_task("game-of-24?target=36"),
make_task("reasoning-gym:chain_sum?max_terms=2"), make_task("list-programs?ops=1-2", make_sandbox)
validate(task)      the gold answer earns 1, another one less
"""

from __future__ import annotations

from collections.abc import Callable

from evolute.envs.adapters import openenv_task, skyrl_gym_task, verifiers_task
from evolute.envs.arithmetic import arithmetic_tasks
from evolute.envs.chains import chain_task
from evolute.envs.code.human_eval import human_eval
from evolute.envs.code.list_programs import list_programs
from evolute.envs.code.task import CodeTask
from evolute.envs.games import grid_task, hangman_task, wordle_task
from evolute.envs.gym_options import PREFIX
from evolute.envs.gym_task import gym_task
from evolute.envs.maths import contest_task, word_problem_task
from evolute.envs.puzzles import PUZZLES
from evolute.envs.sandbox.build import make_sandbox
from evolute.envs.sandbox.contract import Sandbox
from evolute.envs.search.talk import search_talk_task
from evolute.envs.sql.talk import sql_talk_task
from evolute.envs.step import read_step
from evolute.envs.walks import walk_task
from evolute.envs.words import word_tasks
from evolute.types import ConfigError, Task
from evolute.types.settings import nearest

FAMILIES: dict[str, Callable[[str], Task]] = {  # made from a name with options
    **PUZZLES,
    "chain-with-traps": chain_task,
    "contest-maths": contest_task,
    "grid": grid_task,
    "hangman": hangman_task,
    "search-talk": search_talk_task,
    "text-to-sql": sql_talk_task,
    "walk": walk_task,
    "word-problems": word_problem_task,
    "wordle": wordle_task,
}
OTHERS: dict[str, Callable[[str], Task]] = {  # worlds of other packages
    "openenv:": openenv_task,
    "skyrl-gym:": skyrl_gym_task,
    "verifiers:": verifiers_task,
}
MakeSandbox = Callable[[], Sandbox]
PROGRAMS: dict[str, Callable[[str, MakeSandbox], CodeTask]] = {  # answers run in a sandbox
    "list-programs": list_programs,
    "human-eval": human_eval,
}


def task_names() -> list[str]:
    """Our own tasks that need no sandbox. `PROGRAMS` has those that do; every reasoning-gym family
    is there as well, as reasoning-gym:FAMILY."""
    return sorted([*arithmetic_tasks(), *word_tasks(), *FAMILIES])


def make_task(name: str, sandbox: MakeSandbox = make_sandbox) -> Task:
    """A task by name. Raises ConfigError with the nearest known name.

    `sandbox` is called for a task that runs programs; ConfigError where none can be had.
    """
    family = name.partition("?")[0]
    if name.startswith(PREFIX):
        return gym_task(name)
    for prefix, make in OTHERS.items():
        if name.startswith(prefix):
            return make(name)
    if family in FAMILIES:
        return FAMILIES[family](name)
    if family in PROGRAMS:
        return PROGRAMS[family](name, sandbox)
    own: dict[str, Task] = {}
    own |= arithmetic_tasks()
    own |= word_tasks()
    if name not in own:
        if family in own:
            raise ConfigError(f"task {family!r} takes no options; drop {name[len(family) :]!r}.")
        known = [*own, *FAMILIES, *PROGRAMS, PREFIX + "FAMILY", *OTHERS]
        raise ConfigError(f"no task {name!r}. {nearest(name, known)}")
    return own[name]


def validate(task: Task, count: int = 10) -> None:
    """Raise ConfigError unless gold answers earn 1 and a wrong one earns less."""
    for problem in task.problems("train", count):
        for action, is_right in ((problem.gold, True), ("no idea", False)):
            env = task.make(problem)
            env.init(problem.messages)
            reward = read_step(env.step(action)).reward
            env.close()
            if (reward >= 1.0) != is_right:
                raise ConfigError(
                    f"task {task.name!r} gives {action!r} a reward of {reward} on {problem.id!r}."
                )
