"""Tasks by name.

make_task("addition-2"), make_task("game-of-24?target=36"),
make_task("reasoning-gym:chain_sum?max_terms=2")
validate(task)      the gold answer earns 1, another one less
"""

from __future__ import annotations

from collections.abc import Callable

from evolute.envs.arithmetic import arithmetic_tasks
from evolute.envs.chains import chain_task
from evolute.envs.gym_options import PREFIX
from evolute.envs.gym_task import gym_task
from evolute.envs.puzzles import PUZZLES
from evolute.envs.step import read_step
from evolute.envs.words import word_tasks
from evolute.types import ConfigError, Task
from evolute.types.settings import nearest

FAMILIES: dict[str, Callable[[str], Task]] = {  # made from a name with options
    **PUZZLES,
    "chain-with-traps": chain_task,
}


def task_names() -> list[str]:
    """Our own tasks; every reasoning-gym family is there as well, as reasoning-gym:FAMILY."""
    return sorted([*arithmetic_tasks(), *word_tasks(), *FAMILIES])


def make_task(name: str) -> Task:
    """A task by name. Raises ConfigError with the nearest known name."""
    if name.startswith(PREFIX):
        return gym_task(name)
    if name.partition("?")[0] in FAMILIES:
        return FAMILIES[name.partition("?")[0]](name)
    own: dict[str, Task] = {}
    own |= arithmetic_tasks()
    own |= word_tasks()
    if name not in own:
        plain = name.partition("?")[0]
        if plain in own:
            raise ConfigError(f"task {plain!r} takes no options; drop {name[len(plain) :]!r}.")
        known = [*own, *FAMILIES, PREFIX + "FAMILY"]
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
