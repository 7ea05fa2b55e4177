"""Environments of an OpenEnv server, over its own client.

    openenv_task("openenv:http://localhost:8000?action=message&show=prompt&turns=10")

A problem is a seed that the server is reset with. The model's text becomes the field `action` of
the server's action; what is shown of an observation is its field `show`, or without one the usual
fields, else all of it as JSON. The reward of an episode is the sum of its steps'.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evolute.envs.adapters.names import Defaults, module_of, read_name
from evolute.envs.base import split_of
from evolute.types import ConfigError, Env, EpisodeError, Message, Problem, StepResult

PREFIX = "openenv:"
DEFAULTS: Defaults = {"action": "message", "show": "", "turns": 20, "max_new_tokens": 256}
SHOWN = (
    "prompt",
    "message",
    "text",
    "question",
    "echoed_message",
    "output",
    "response",
    "messages",
)
MAX_SEED = 2**31


@dataclass(frozen=True, slots=True)
class OpenEnvTask:
    """Seeds without end; a hash decides the split of each."""

    name: str
    url: str
    action: str
    show: str
    turns: int
    max_new_tokens: int

    def problems(self, split: str, count: int, seed: int = 0) -> list[Problem]:
        source = random.Random(f"{self.name}/{split}/{seed}")
        found: dict[str, Problem] = {}
        while len(found) < count:
            number = source.randrange(MAX_SEED)
            text = f"{self.url} seed {number}"
            if split_of(text) == split:
                found[text] = Problem(text, (), "", {"seed": number})
        return list(found.values())

    def make(self, problem: Problem) -> Env:
        if not isinstance(problem.extras.get("seed"), int):
            raise ConfigError(f"problem {problem.id[:80]!r} is none of {self.name!r}.")
        return OpenEnv(self, problem.extras["seed"])


class OpenEnv:
    """One episode: a session of the server's."""

    def __init__(self, task: OpenEnvTask, seed: int) -> None:
        self._task, self._seed = task, seed
        self._client: Any = None
        self.turns = 0

    def init(self, prompt: Sequence[Message]) -> tuple[list[Message], dict[str, Any]]:
        """The first observation is the prompt. Raises EpisodeError without a server."""
        core = module_of("openenv.core", "openenv")
        try:
            self._client = core.GenericEnvClient(base_url=self._task.url).sync()
            result = self._client.reset(seed=self._seed)
        except Exception as error:
            raise EpisodeError(
                f"the OpenEnv server at {self._task.url} cannot be reset: {error!r}"
            ) from error
        told: Message = {"role": "user", "content": shown(result.observation, self._task.show)}
        return [*prompt, told], {}

    def step(self, action: str) -> StepResult:
        assert self._client is not None, "step before init"
        self.turns += 1
        result = self._client.step({self._task.action: action})
        reward = 0.0 if result.reward is None else float(result.reward)
        if result.done or self.turns >= self._task.turns:
            return StepResult(reward=reward, metadata={"truncated": not result.done})
        told: Message = {"role": "user", "content": shown(result.observation, self._task.show)}
        return StepResult((told,), reward, done=False)

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def get_metrics(self) -> dict[str, float]:
        return {}


def openenv_task(name: str) -> OpenEnvTask:
    """Raises ConfigError without the package. The server is asked when an episode begins."""
    url, options = read_name(name, PREFIX, DEFAULTS)
    if not url.startswith(("http://", "https://", "ws://", "wss://")):
        raise ConfigError(f"{name!r} names no server; write {PREFIX}http://HOST:PORT.")
    core = module_of("openenv.core", "openenv")
    if not hasattr(core, "GenericEnvClient"):
        raise ConfigError("the installed openenv has no GenericEnvClient: pip install openenv")
    return OpenEnvTask(
        name, url, options["action"], options["show"], options["turns"], options["max_new_tokens"]
    )


def shown(observation: Any, field: str) -> str:
    """The text that stands for an observation. Raises EpisodeError for a field that it lacks."""
    if isinstance(observation, str):
        return observation
    if not isinstance(observation, Mapping):
        raise EpisodeError(f"the server's observation is a {type(observation).__name__}.")
    if field and field not in observation:
        raise EpisodeError(
            f"the server's observation has no field {field!r}; it has {sorted(observation)}."
        )
    for name in (field,) if field else SHOWN:
        value = observation.get(name)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, list) and value and isinstance(value[-1], Mapping):
            return str(value[-1].get("content", value[-1]))
        if field:
            return json.dumps(value, ensure_ascii=False)
    return json.dumps(observation, ensure_ascii=False, sort_keys=True, default=str)
