"""Environments that skyrl-gym ships or knows, unmodified.

    skyrl_gym_task("skyrl-gym:gsm8k?data=rows.jsonl")

`data` has a JSON row a line in skyrl-train's form: `prompt`, and what the environment takes as its
extras (`reward_spec`, `extra_info`, `max_turns`, ...). `config` is a JSON object, the environment's
own settings (`db_path`, `search_url`). Without outside services run aime, gsm8k, gsm8k_multi_turn,
lcb (it runs programs unprotected) and text2sql (database files under `db_path`); search and
searchcode ask a retrieval server, rlm its own model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from evolute.envs.adapters.names import Defaults, module_of, read_name
from evolute.envs.adapters.rows import Row, draw_rows, read_rows
from evolute.types import ConfigError, Env, Problem

PREFIX = "skyrl-gym:"
DEFAULTS: Defaults = {"data": "", "config": "{}", "max_new_tokens": 256}


@dataclass(frozen=True, slots=True)
class SkyRLGymTask:
    """`gold` of a problem is the row's, where it gives one."""

    name: str
    world: str
    rows: Sequence[Row]
    config: dict[str, Any]
    max_new_tokens: int

    def problems(self, split: str, count: int, seed: int = 0) -> list[Problem]:
        return draw_rows(self.name, self.rows, split, count, seed)

    def make(self, problem: Problem) -> Env:
        """Raises ConfigError when the environment refuses the row."""
        gym = module_of("skyrl_gym", "skyrl-gym")
        extras = {key: value for key, value in problem.extras["row"].items() if key != "prompt"}
        settings = SimpleNamespace(**self.config)
        try:
            made: Env = gym.make(self.world, env_config=settings, extras=extras)
        except Exception as error:
            raise ConfigError(
                f"skyrl-gym's {self.world!r} refuses the row {problem.id[:80]!r}: {error!r}. "
                "Compare its extras with skyrl-gym's documentation."
            ) from error
        return made


def skyrl_gym_task(name: str) -> SkyRLGymTask:
    """Raises ConfigError without the package, for an unknown environment, and without data."""
    world, options = read_name(name, PREFIX, DEFAULTS)
    gym = module_of("skyrl_gym", "skyrl-gym")
    try:
        gym.spec(world)
    except Exception as error:
        raise ConfigError(f"skyrl-gym has no environment {world!r}: {error}") from error
    if not options["data"]:
        raise ConfigError(f"{name!r} needs data=FILE: rows of skyrl-train's form, JSON lines.")
    try:
        config = json.loads(options["config"])
    except ValueError as error:
        raise ConfigError(f"config of {name!r} is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"config of {name!r} is {config!r}; it must be a JSON object.")
    return SkyRLGymTask(name, world, read_rows(options["data"]), config, options["max_new_tokens"])
