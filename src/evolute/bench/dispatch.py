"""What is a pipeline of stages worth on real sandboxes? Bounded batch against pipeline, in turn.

    bounded        P whole lifecycles at once
    pipeline       P in each stage, so more live worlds
    equal_live     the pipeline with no more live worlds than the bounded batch: about 1.0
    ..._predicted_s    what the simulator says of each, from the stages' times in the bounded batch

Each trajectory is an agent of `evolute.agents` whose model is a script. Its world is a sandbox that
starts with a service that takes a while, its tool waits within the sandbox, and a fresh sandbox
grades what it left behind. Everything waits rather than computes, as there are few cores; how long
is in the settings of the result.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

from evolute.agents import AgentConfig, AgentPlayer, DispatchConfig, Dispatcher
from evolute.agents.simulation import Recorded, recorded, replay
from evolute.bench.result import BenchResult, summarize
from evolute.engine import EngineConfig
from evolute.envs.sandbox import make_sandbox
from evolute.envs.sandbox.bubblewrap import Bubblewrap
from evolute.envs.sandbox.session import SESSION_LIMITS, Session, shell
from evolute.envs.tools import Grade, Tool, ToolContext, ToolResult
from evolute.envs.tools.worlds import with_sessions
from evolute.models import LoadedModel, load_model
from evolute.types import (
    ConfigError,
    Delta,
    FinishReason,
    GenerateRequest,
    Message,
    Output,
    Problem,
    Tokenizer,
    VersionSegment,
)

STATED = "worked"


@dataclass(frozen=True, slots=True)
class Load:
    """How many trajectories, and how long each part waits, in seconds."""

    trajectories: int
    cap: int
    init_s: float = 0.5
    model_s: float = 0.05
    tool_s: float = 0.2
    eval_s: float = 0.8
    turns: tuple[int, ...] = (2, 3, 4, 6)  # in turn, before it finishes


def run(
    quick: bool,
    *,
    model: str | LoadedModel = "tiny",
    config: EngineConfig | None = None,
    repeats: int = 3,
) -> BenchResult:
    """Raises ConfigError for settings, and without a sandbox that stays open."""
    if config not in (None, EngineConfig()):
        raise ConfigError("bench dispatch has a script for a model; drop --set.")
    load = Load(24, 4) if quick else Load(96, 8)
    tokenizer = load_model("tiny").tokenizer
    stages = DispatchConfig(max_init=load.cap, max_run=load.cap, max_eval=load.cap, queue=load.cap)
    schedules = {
        "bounded": DispatchConfig(schedule="bounded", max_run=load.cap),
        "pipeline": stages,
        "equal_live": replace(stages, max_live=load.cap),
    }
    rounds = []
    for _ in range(repeats):
        found: dict[str, float] = {}
        taken: dict[str, list[Recorded]] = {}
        for name, limits in schedules.items():
            figures, taken[name] = asyncio.run(_measure(name, limits, load, tokenizer))
            found |= figures
        for name, limits in schedules.items():
            predicted = replay(taken["bounded"], range(load.trajectories), limits).makespan_s
            found[f"{name}_predicted_s"] = predicted
            found[f"{name}_error"] = predicted / found[f"{name}_s"] - 1
        found["ratio"] = found["bounded_s"] / found["pipeline_s"]
        found["ratio_equal_live"] = found["bounded_s"] / found["equal_live_s"]
        rounds.append(found)
    figures, spread = summarize(rounds)
    return BenchResult("dispatch", asdict(load), figures, repeats, spread, notes=(__doc__ or "",))


# -- internals ---------------------------------------------------------------


async def _measure(
    name: str, limits: DispatchConfig, load: Load, tokenizer: Tokenizer
) -> tuple[dict[str, float], list[Recorded]]:
    task, backend = SandboxTask(load), ScriptedModel(tokenizer, load.model_s)
    problems = task.problems("train", load.trajectories)
    began = time.perf_counter()
    async with Dispatcher(limits) as dispatcher:
        player = AgentPlayer(task, backend, AgentConfig(), dispatcher=dispatcher)
        plays = [
            player.play_timed(problem, group=group, index=0, seed=0)
            for group, problem in enumerate(problems)
        ]
        played = await asyncio.gather(*plays)
        seconds, stats = time.perf_counter() - began, dispatcher.stats()
    wrong = [rollout for _, rollout in played if rollout.reward != 1.0]
    if wrong:
        raise RuntimeError(f"{len(wrong)} trajectories were not right: {wrong[0].metadata}")
    figures = {
        f"{name}_s": seconds,
        f"{name}_peak_live": stats["live/peak"],
        f"{name}_peak_run": stats["run/peak"],
    }
    return figures, [recorded(ending) for ending, _ in played]


class SandboxTask:
    """Implements `ToolTask`: do a number of steps of work, then finish."""

    name = "sandbox-steps"

    def __init__(self, load: Load) -> None:
        self._load = load
        self._sandbox: Bubblewrap = with_sessions(make_sandbox(), "bench dispatch")

    def problems(self, split: str, count: int, seed: int = 0) -> list[Problem]:
        turns = [self._load.turns[n % len(self._load.turns)] for n in range(count)]
        return [
            Problem(f"{n}", ({"role": "user", "content": f"Steps to do: {steps}"},), str(steps))
            for n, steps in enumerate(turns)
        ]

    def world(self, problem: Problem) -> SandboxWorld:
        return SandboxWorld(self._sandbox, problem, self._load)


class SandboxWorld:
    """A sandbox that keeps a log of the steps. Implements `ToolWorld`."""

    def __init__(self, sandbox: Bubblewrap, problem: Problem, load: Load) -> None:
        self._sandbox, self._problem, self._load = sandbox, problem, load
        self._stack = AsyncExitStack()
        self._session: Session | None = None

    async def start(self) -> None:
        opened = self._sandbox.open(SESSION_LIMITS, {})
        self._session = await self._stack.enter_async_context(opened)
        await _shell(self._session, f"sleep {self._load.init_s}; touch log")

    def instruction(self) -> Sequence[Message]:
        return self._problem.messages

    def tools(self) -> Sequence[Tool]:
        return [Step(self._session, self._load.tool_s), Done()]

    async def grade(self, answer: str | None) -> Grade:
        assert self._session is not None
        log = await self._session.read("log")
        async with self._sandbox.open(SESSION_LIMITS, {"log": log}) as fresh:
            told = await _shell(fresh, f"sleep {self._load.eval_s}; wc -l < log")
        is_right = told.strip() == self._problem.gold
        return Grade(float(is_right), is_right)

    async def close(self) -> None:
        await self._stack.aclose()


class Step:
    """One step of work."""

    def __init__(self, session: Session | None, seconds: float) -> None:
        self._session, self._seconds = session, seconds
        self.schema = _schema("step")

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        assert self._session is not None
        line = f"sleep {self._seconds}; echo step >> log; wc -l < log"
        return ToolResult(f"{STATED} {(await _shell(self._session, line)).strip()}")


class Done:
    """Ends the episode."""

    def __init__(self) -> None:
        self.schema = _schema("done")

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        return ToolResult(answer="done")


class ScriptedModel:
    """Calls `step` as often as the task says, then `done`. Implements `Backend`."""

    model_name = "script"

    def __init__(self, tokenizer: Tokenizer, seconds: float) -> None:
        self.tokenizer, self._seconds = tokenizer, seconds

    async def agenerate(self, request: GenerateRequest) -> list[Output]:
        await asyncio.sleep(self._seconds)
        text = self.tokenizer.decode(request.prompt)
        wanted = int(text.partition("Steps to do: ")[2].split()[0])
        name = "step" if text.count(STATED) < wanted else "done"
        said = f"<tool_call>{json.dumps({'name': name, 'arguments': {}})}</tool_call>"
        ids = (*self.tokenizer.encode(said), self.tokenizer.eos_token_id)
        return [
            Output(
                said,
                ids,
                (-1.0,) * len(ids),
                FinishReason.STOP,
                0,
                0,
                len(request.prompt),
                (VersionSegment(0, len(ids)),),
            )
        ]

    async def stream(self, request: GenerateRequest) -> AsyncIterator[Delta]:
        """The whole answer as one piece."""
        (output,) = await self.agenerate(request)
        yield Delta(0, output.text, output.token_ids, output.logprobs, output=output)


async def _shell(session: Session, line: str) -> str:
    report = await session.run(shell(line))
    if not report.is_ok:
        raise RuntimeError(f"{line!r} failed in the sandbox: {report}")
    return report.stdout


def _schema(name: str) -> Mapping[str, Any]:
    parameters = {"type": "object", "properties": {}, "additionalProperties": False}
    function = {"name": name, "description": f"{name} once", "parameters": parameters}
    return {"type": "function", "function": function}
