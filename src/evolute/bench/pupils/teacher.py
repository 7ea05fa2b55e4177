"""Who shows the pupil how its world is acted in: a script that plays in the model's place.

Teacher(script, problem, tokenizer, seed)      a Backend for one trajectory
lessons(script, task, tokenizer, agents, problems, path, seed)     played and written down

A script is a generator: it is given the problem, a source of chance and what it is told first; it
yields calls and is sent what each of them gave. Played by the real agent in the real world, so the
tokens of a lesson are those that a rollout of the pupil would have.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evolute.agents import AgentConfig, AgentPlayer, DispatchConfig, Dispatcher
from evolute.bench.pupils.pupil import written
from evolute.envs.tools import ToolTask
from evolute.models.tokenizer import ChatTokenizer
from evolute.reasoning.demonstrations.student import END, QUESTION
from evolute.telemetry import RecordWriter
from evolute.types import (
    BackendError,
    Delta,
    FinishReason,
    GenerateRequest,
    Output,
    Problem,
    Rollout,
)

Call = tuple[str, Mapping[str, Any]]
Script = Callable[[Problem, random.Random, str], Generator[Call, str, None]]
AT_ONCE = 16  # lessons


class Teacher:
    """Implements `types.Backend` for one trajectory of one agent."""

    model_name = "teacher"

    def __init__(
        self, script: Script, problem: Problem, tokenizer: ChatTokenizer, seed: str
    ) -> None:
        self.tokenizer = tokenizer
        self._begin, self._problem, self._source = script, problem, random.Random(seed)
        self._calls: Generator[Call, str, None] | None = None

    async def agenerate(self, request: GenerateRequest) -> list[Output]:
        """The script's next call. Raises BackendError when it has none."""
        told = self._told(request.prompt)
        try:
            if self._calls is None:
                self._calls = self._begin(self._problem, self._source, told)
                call = next(self._calls)
            else:
                call = self._calls.send(told)
        except StopIteration:
            raise BackendError("the script ended before the episode did.") from None
        text = written(*call)
        ids = tuple(self.tokenizer.encode(text))
        return [Output(text, ids, (0.0,) * len(ids), FinishReason.STOP, 0, 0, len(request.prompt))]

    async def stream(self, request: GenerateRequest) -> AsyncIterator[Delta]:
        (output,) = await self.agenerate(request)
        yield Delta(0, output.text, output.token_ids, output.logprobs, output=output)

    # -- internals ---------------------------------------------------------------

    def _told(self, prompt: Sequence[int] | str) -> str:
        """The last message that is not the model's."""
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        text = self.tokenizer.decode(ids, skip_special_tokens=False)
        return text.rpartition(QUESTION)[2].partition(END)[0]


async def lessons(
    script: Script,
    task: ToolTask,
    tokenizer: ChatTokenizer,
    agents: Sequence[AgentConfig],
    problems: Sequence[Problem],
    path: Path,
    seed: int,
) -> list[Rollout]:
    """One trajectory of each problem, by the agents in turn; in their order in `path`, as `train
    sft` reads it. Readers see a whole file or none."""
    limits = DispatchConfig(schedule="bounded", max_run=AT_ONCE)
    async with Dispatcher(limits) as dispatcher:

        async def one(number: int, problem: Problem) -> Rollout:
            teacher = Teacher(script, problem, tokenizer, f"{seed}/{number}/{problem.id}")
            agent = agents[number % len(agents)]
            player = AgentPlayer(task, teacher, agent, dispatcher=dispatcher)
            return await player.play(problem, group=number, index=0, seed=seed)

        played = await asyncio.gather(*(one(n, problem) for n, problem in enumerate(problems)))
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    with RecordWriter(temporary) as writer:
        for rollout in played:
            writer.write(asdict(rollout))
    temporary.replace(path)
    return list(played)
