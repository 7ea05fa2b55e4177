"""Every family of tool tasks through the agent loop: what its own demonstration does earns 1."""

import asyncio
import json
import random

import pytest

from evolute.agents import AgentConfig, AgentPlayer, DispatchConfig, Dispatcher
from evolute.envs.tools.registry import make_tool_task, tool_task_names
from evolute.testing import ByteTokenizer, ScriptedBackend, SumTask, SumWorld
from evolute.types import ConfigError, Outcome, SandboxError


def task_of(name):
    try:
        return make_tool_task(name)
    except ConfigError as error:
        pytest.skip(str(error))


def called(name, arguments):
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


@pytest.mark.parametrize("name", tool_task_names())
def test_a_demonstration_through_the_loop_earns_one(name):
    task = task_of(name)
    (problem,) = task.problems("train", 1)
    script = ["Let me see.", *(called(*one) for one in task.gold_calls(problem))]
    backend = ScriptedBackend(script, context=10**6)
    config = AgentConfig(max_turns=60, max_new_tokens=10**5, tool_timeout_s=60)

    async def play():
        player = AgentPlayer(task, backend, config)
        return await player.play(problem, group=0, index=0, seed=0)

    rollout = asyncio.run(play())
    assert (rollout.reward, rollout.outcome) == (1.0, Outcome.DONE), rollout.text[-2000:]
    assert rollout.metrics["mistakes"] == 1  # the words without a call
    trained = sum(sum(sample.loss_mask) for sample in rollout.samples)
    assert trained == sum(len(text.encode()) + 1 for text in script) - sum(map(ends, script))
    if name == "memory-qa":
        assert len(rollout.samples) == len(script) - 1  # one a part: its history was rewritten


def ends(text):
    """A turn that a stop string ended has no end-of-sequence token."""
    return text.endswith("</tool_call>")


@pytest.mark.parametrize("share", [0.1])
def test_worlds_that_die_at_random_bias_nothing(share):
    """A tenth of all starts, tool calls and gradings break; all ends are there, and accuracy over
    the rest is that of the run without failures, within its interval."""

    def accuracy(share):
        source = random.Random(5)

        class World(SumWorld):
            def maybe_die(self):
                if source.random() < share:
                    raise SandboxError("killed")

            async def start(self):
                self.maybe_die()

            async def _add(self, arguments, context):
                self.maybe_die()
                return await super()._add(arguments, context)

            async def grade(self, answer):
                self.maybe_die()
                return await super().grade(answer)

        class Task(SumTask):
            def world(self, problem):
                self.worlds.append(World(problem))
                return self.worlds[-1]

        def answer(request):
            text = ByteTokenizer().decode(request.prompt)
            if "tool_response" not in text:
                return called("add", {"a": 1, "b": 2})
            terms = text.partition("Add up: ")[2].partition("<tool")[0].partition("assistant")[0]
            total = sum(int(word) for word in terms.split())
            return called("finish", {"answer": str(total if total % 2 else 0)})

        async def main():
            task = Task()
            limits = DispatchConfig(max_init=3, max_run=5, max_eval=3, retries=1, retry_wait_s=0.0)
            async with Dispatcher(limits) as dispatcher:
                backend = ScriptedBackend(answer, context=10**6)
                player = AgentPlayer(task, backend, dispatcher=dispatcher)
                problems = task.problems("train", 150)
                plays = [
                    player.play(problem, group=group, index=0, seed=0)
                    for group, problem in enumerate(problems)
                ]
                return await asyncio.gather(*plays), task.worlds

        rollouts, worlds = asyncio.run(main())
        assert len(rollouts) == 150 and all(world.num_closes == 1 for world in worlds)
        valid = [r for r in rollouts if r.outcome is Outcome.DONE]
        failed = [r for r in rollouts if r.outcome is Outcome.FAILED]
        assert len(valid) + len(failed) == 150
        assert all(r.failure == "SandboxError" and r.reward == 0.0 for r in failed)
        return sum(r.reward for r in valid) / len(valid), len(failed)

    (whole, none), (with_failures, some) = accuracy(0.0), accuracy(share)
    assert none == 0 and 8 <= some <= 35  # a tool call that dies, and starts and gradings twice
    assert abs(with_failures - whole) < 2 * (0.25 / 115) ** 0.5
