import asyncio

import pytest
from talk import Played, call, finish

from evolute.agents import AgentConfig, AgentPlayer, DispatchConfig, Dispatcher
from evolute.envs.tools import Grade
from evolute.testing import ScriptedBackend, SumTask, SumWorld
from evolute.types import Outcome, RequestError


class Failing(SumTask):
    """Worlds whose methods raise for the first `times` calls of them."""

    def __init__(self, method, error, times=99):
        super().__init__()
        self.left = times

        class World(SumWorld):
            pass

        original, task = getattr(SumWorld, method), self

        async def sometimes(world, *args):
            if task.left:
                task.left -= 1
                raise error
            return await original(world, *args)

        def plainly(world):
            if task.left:
                task.left -= 1
                raise error
            return original(world)

        is_async = asyncio.iscoroutinefunction(original)
        setattr(World, method, sometimes if is_async else plainly)
        self._world = World

    def world(self, problem):
        self.worlds.append(self._world(problem))
        return self.worlds[-1]


@pytest.mark.parametrize("method", ["start", "instruction", "tools", "grade"])
@pytest.mark.parametrize("error", [OSError("away"), RequestError("the world's own")])
def test_a_broken_world_is_a_failed_rollout(method, error):
    task = Failing(method, error)
    limits = DispatchConfig(schedule="all", retries=1, retry_wait_s=0.0)
    rollout = played(task, [finish()], limits)
    assert rollout.outcome is Outcome.FAILED and rollout.reward == 0.0
    assert rollout.metadata["stage"] == {"start": "init", "grade": "eval"}.get(method, "run")
    assert str(error) in rollout.metadata["error"]
    assert all(world.num_closes == 1 for world in task.worlds)
    assert len(task.worlds) == (2 if method == "start" else 1)
    assert len(rollout.samples) == (method == "grade")


def played(task, script, limits):
    async def main():
        dispatcher = Dispatcher(limits)
        player = AgentPlayer(task, ScriptedBackend(script), dispatcher=dispatcher)
        return await player.play(task.problems("train", 1)[0], group=0, index=0, seed=0)

    return asyncio.run(main())


@pytest.mark.parametrize("method", ["start", "grade"])
def test_what_fails_once_is_tried_again_and_the_tokens_are_kept(method):
    limits = DispatchConfig(schedule="all", retry_wait_s=0.0)
    rollout = played(Failing(method, OSError(), times=1), [finish()], limits)
    assert rollout.outcome is Outcome.DONE and len(rollout.samples) == 1


@pytest.mark.parametrize("grade", [None, 1.0, Grade(float("nan"), True), Grade(float("inf"), True)])
def test_a_grade_that_is_none_is_no_reward(grade):
    class World(SumWorld):
        async def grade(self, answer):
            return grade

    class Task(SumTask):
        def world(self, problem):
            return World(problem)

    limits = DispatchConfig(schedule="all", retries=0)
    rollout = played(Task(), [finish()], limits)
    assert rollout.outcome is Outcome.FAILED and rollout.failure == "RewardError"


def test_many_agents_share_a_dispatchers_limits():
    async def main():
        task = SumTask(delays_s={"start": 0.001, "grade": 0.001})
        limits = DispatchConfig(max_init=2, max_run=3, max_eval=2, queue=2)
        async with Dispatcher(limits) as dispatcher:
            backend = ScriptedBackend(lambda request: finish("5"), context=9999)
            player = AgentPlayer(task, backend, dispatcher=dispatcher)
            problems = task.problems("train", 6)
            plays = [
                player.play(problem, group=group, index=index, seed=0)
                for group, problem in enumerate(problems)
                for index in range(4)
            ]
            rollouts = await asyncio.gather(*plays)
        return task, rollouts, dispatcher.stats()

    task, rollouts, stats = asyncio.run(main())
    assert [(r.group, r.index) for r in rollouts] == [(g, i) for g in range(6) for i in range(4)]
    assert all(world.num_closes == 1 for world in task.worlds) and len(task.worlds) == 24
    assert stats["ended/done"] == 24 and stats["run/peak"] <= 3 and stats["init/peak"] <= 2


def test_rewards_come_once_a_trajectory_whatever_its_samples():
    script = [call("clear_history", notes="x"), call("clear_history", notes="y"), finish()]
    whole = Played(script, clear_history=True, merge_samples=False)
    assert len(whole.rollout.samples) == 3 and whole.rollout.reward == 0.0
    assert AgentConfig().merge_samples
