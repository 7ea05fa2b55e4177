"""Task sets of the verifiers package (its version 1 interface), one answer each.

    verifiers_task("verifiers:my-taskset?max_new_tokens=256")

The task's own prompts, rewards and metrics are used as they are; the reward is the trace's weighted
sum. Tasks that need more than an answer (tool servers, a container, a user who speaks first) are
refused: verifiers plays those by its own harnesses.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from evolute.envs.adapters.names import Defaults, module_of, read_name
from evolute.envs.base import split_of
from evolute.envs.code.task import run_apart
from evolute.types import ConfigError, Env, Message, Problem, StepResult

PREFIX = "verifiers:"
DEFAULTS: Defaults = {"max_new_tokens": 256, "limit": 10_000}


@dataclass(frozen=True, slots=True)
class VerifiersTask:
    """`limit` tasks are read at most; a hash of the task's data decides the split."""

    name: str
    taskset: Any
    limit: int
    max_new_tokens: int
    _tasks: dict[str, Any] = field(default_factory=dict, repr=False)

    def problems(self, split: str, count: int, seed: int = 0) -> list[Problem]:
        """Raises ConfigError for too few, and for a task that needs more than an answer."""
        found: list[Problem] = []
        for key, task in self._by_key().items():
            if split_of(key) == split:
                found.append(Problem(key, _messages(task), "", {"verifiers": key}))
        if len(found) < count:
            raise ConfigError(
                f"task {self.name!r} has only {len(found)} problems in split {split!r}, {count} "
                "were asked for; ask for fewer."
            )
        random.Random(f"{self.name}/{split}/{seed}").shuffle(found)
        return found[:count]

    def make(self, problem: Problem) -> Env:
        task = self._by_key().get(str(problem.extras.get("verifiers")))
        if task is None:
            raise ConfigError(f"problem {problem.id[:80]!r} is none of {self.name!r}.")
        return VerifiersEnv(task, problem.messages)

    def _by_key(self) -> dict[str, Any]:
        if not self._tasks:
            for task in islice(iter(self.taskset), self.limit):
                _check(self.name, task)
                self._tasks[str(task.key)] = task
        return self._tasks


class VerifiersEnv:
    """One answer, scored by the task."""

    def __init__(self, task: Any, messages: Sequence[Message]) -> None:
        self._task, self._messages = task, list(messages)
        self._metrics: dict[str, float] = {}

    def init(self, prompt: Sequence[Message]) -> tuple[list[Message], dict[str, Any]]:
        return list(self._messages), {}

    def step(self, action: str) -> StepResult:
        trace = trace_of(self._task, self._messages, action)
        run_apart(self._task.score(trace))
        self._metrics = {k: float(v) for k, v in trace.metrics.items() if v is not None}
        for name, reward in trace.rewards.items():
            if reward is not None:
                self._metrics[f"reward_{name}"] = float(reward.score)
        return StepResult(reward=float(trace.reward))

    def close(self) -> None:
        """Nothing to release."""

    def get_metrics(self) -> dict[str, float]:
        return dict(self._metrics)


def verifiers_task(name: str) -> VerifiersTask:
    """Raises ConfigError without the package (version 0.4 or later), or for an unknown task set."""
    world, options = read_name(name, PREFIX, DEFAULTS)
    module_of("verifiers.v1", "verifiers", ">=0.4 (in an environment of its own: it pins openai<3)")
    loaders = module_of("verifiers.v1.utils.loaders", "verifiers")
    try:
        config = loaders.taskset_config_type(world)(id=world)
        taskset = loaders.load_taskset(config)
    except Exception as error:
        raise ConfigError(f"verifiers cannot load the task set {world!r}: {error}") from error
    return VerifiersTask(name, taskset, options["limit"], options["max_new_tokens"])


def trace_of(task: Any, messages: Sequence[Message], answer: str) -> Any:
    """What the task's rewards look at: the prompt, and the answer as the one sampled message."""
    v1 = module_of("verifiers.v1", "verifiers")
    state = module_of("verifiers.v1.state", "verifiers").state_cls(type(task))()
    kinds = {"system": v1.SystemMessage, "user": v1.UserMessage, "assistant": v1.AssistantMessage}
    said = [kinds[message["role"]](content=message["content"]) for message in messages]
    said.append(v1.AssistantMessage(content=answer))
    nodes = [
        v1.MessageNode(parent=k - 1 if k else None, message=one, sampled=one is said[-1])
        for k, one in enumerate(said)
    ]
    return v1.Trace(
        task=v1.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash),
        agent=v1.AgentInfo(config=v1.AgentConfig()),
        state=state,
        nodes=nodes,
        is_completed=True,
        ok=True,
    )


# -- internals ---------------------------------------------------------------


def _check(name: str, task: Any) -> None:
    needs = [
        what
        for what, is_needed in (
            ("a container", task.NEEDS_CONTAINER),
            ("tool servers", bool(type(task).toolsets(task.config))),
            ("a user who speaks first", task.data.prompt is None),
        )
        if is_needed
    ]
    if needs:
        raise ConfigError(
            f"tasks of {name!r} need {', '.join(needs)}; this adapter plays tasks of one answer. "
            "Run these by verifiers' own harness against our server."
        )


def _messages(task: Any) -> tuple[Message, ...]:
    data = task.data
    found: list[Message] = []
    if data.system_prompt:
        found.append({"role": "system", "content": data.system_prompt})
    if isinstance(data.prompt, str):
        found.append({"role": "user", "content": data.prompt})
        return tuple(found)
    for message in data.prompt:
        if not isinstance(message.content, str):
            raise ConfigError(f"task {task.key!r} has a prompt that is not text alone.")
        found.append({"role": message.role, "content": message.content})
    return tuple(found)
