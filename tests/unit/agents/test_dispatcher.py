import asyncio
import math

import pytest

from evolute.agents.dispatcher import DispatchConfig, Dispatcher, End, Stage, StageTimeout
from evolute.telemetry.virtual_time import run_virtual
from evolute.types import ConfigError, EpisodeError, RequestError


class Life:
    """A lifecycle by times; an entry of `fails` is raised by that stage, in order of its calls."""

    def __init__(self, init=1.0, run=1.0, eval=1.0, close=0.0, fails=None, log=None):
        self.times = {"init": init, "run": run, "eval": eval, "close": close}
        self.fails = {name: list(errors) for name, errors in (fails or {}).items()}
        self.log = [] if log is None else log
        self.starts = self.closes = 0

    async def _do(self, stage):
        self.log.append(stage)
        await asyncio.sleep(self.times[stage])
        errors = self.fails.get(stage, [])
        error = errors.pop(0) if errors else None
        if error is not None:
            raise error

    async def start(self):
        self.starts += 1
        await self._do("init")

    async def act(self):
        await self._do("run")

    async def grade(self):
        await self._do("eval")
        return "graded"

    async def close(self):
        self.closes += 1
        await self._do("close")


def limits(**given):
    return DispatchConfig(**{"retry_wait_s": 1.0, "grace_s": 0.5, **given})


def play(life, **given):
    async def main():
        async with Dispatcher(limits(**given)) as dispatcher:
            return await dispatcher.play(life), dispatcher.stats()

    return run_virtual(main())


def test_a_lifecycle_goes_through_all_stages_and_is_closed():
    life = Life(init=2, run=3, eval=4)
    ending, stats = play(life)
    assert (ending.end, ending.value, ending.seconds) == (End.DONE, "graded", 9.0)
    assert life.log == ["init", "run", "eval", "close"]
    assert [ending.times[stage].service_s for stage in (Stage.INIT, Stage.RUN, Stage.EVAL)] == [
        2,
        3,
        4,
    ]
    assert stats["ended/done"] == stats["starts"] == stats["closes"] == 1 and not stats["inside"]


@pytest.mark.parametrize("stage", ["init", "run", "eval"])
def test_a_failure_in_a_stage_is_the_ending_and_the_world_is_closed(stage):
    life = Life(fails={stage: [ValueError("broken")] * 3})
    ending, stats = play(life)
    assert ending.end is End.FAILED and ending.stage == stage
    assert isinstance(ending.error, ValueError)
    assert life.starts == life.closes == (3 if stage == "init" else 1)
    assert stats["ended/failed"] == 1


@pytest.mark.parametrize("stage", ["init", "eval"])
def test_the_infrastructures_failures_are_tried_again(stage):
    life = Life(fails={stage: [OSError("away"), OSError("away")]})
    ending, stats = play(life)
    assert ending.end is End.DONE and ending.attempts == 2
    assert stats[f"{stage}/retries"] == 2
    assert ending.seconds == 3 + 2 + 1 + 2  # two more tries, and waits of 1 and 2 seconds
    assert life.starts == life.closes == (3 if stage == "init" else 1)


def test_acting_is_not_tried_again():
    life = Life(fails={"run": [OSError("away")]})
    ending, _ = play(life)
    assert ending.end is End.FAILED and life.log.count("run") == 1


def test_no_retries_when_they_are_off_nor_for_settings_that_cannot_work():
    assert play(Life(fails={"init": [OSError()]}), retries=0)[0].end is End.FAILED
    life = Life(fails={"init": [RequestError("no")]})
    assert isinstance(play(life)[0].error, RequestError) and life.starts == 1


@pytest.mark.parametrize("stage", ["init", "run", "eval"])
def test_a_stage_that_hangs_is_ended_by_its_limit(stage):
    life = Life(**{stage: 1e9})
    ending, stats = play(life, retries=0, **{f"{stage}_timeout_s": 5.0})
    assert ending.end is End.FAILED and isinstance(ending.error, StageTimeout)
    assert ending.stage == stage and f"dispatch.{stage}_timeout_s" in str(ending.error)
    assert stats[f"{stage}/timeouts"] == 1 and life.closes == 1
    assert ending.seconds <= 5 + 2 + 0.5


def test_a_stage_that_refuses_to_end_is_left_behind():
    class Stubborn(Life):
        async def act(self):
            while True:
                try:
                    await asyncio.sleep(100)
                    return
                except asyncio.CancelledError:
                    continue

    life = Stubborn()
    ending, _ = play(life, run_timeout_s=5.0)
    assert ending.end is End.FAILED and ending.seconds == 1 + 5 + 0.5 and life.closes == 1


def test_a_close_that_hangs_or_fails_changes_no_ending():
    assert play(Life(close=1e9), close_timeout_s=2.0)[0].end is End.DONE
    ending, stats = play(Life(fails={"close": [OSError()]}))
    assert ending.end is End.DONE and stats["close_failures"] == 1


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError()])
def test_what_would_end_the_program_is_a_failure(error):
    ending, _ = play(Life(fails={"run": [error]}))
    assert ending.end is End.FAILED and isinstance(ending.error, EpisodeError)


def test_exceptions_of_one_do_not_touch_the_others():
    async def main():
        async with Dispatcher(limits(max_run=2, retries=0)) as dispatcher:
            lives = [Life(fails={"run": [ValueError()]} if n % 3 == 0 else {}) for n in range(9)]
            return [ending.end for ending in await dispatcher.run(lives)], lives

    ends, lives = run_virtual(main())
    assert ends == [End.FAILED, End.DONE, End.DONE] * 3
    assert all(life.starts == life.closes == 1 for life in lives)


def test_cancelling_the_caller_cleans_up_first():
    async def main():
        async with Dispatcher(limits()) as dispatcher:
            life = Life(run=1e9, close=3)
            task = asyncio.create_task(dispatcher.play(life))
            await asyncio.sleep(5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return life, dispatcher.stats(), asyncio.get_running_loop().time()

    life, stats, now_s = run_virtual(main())
    assert life.closes == 1 and life.log[-1] == "close"
    assert stats["ended/cancelled"] == 1 and stats["inside"] == 0 and stats["run/inside"] == 0
    assert now_s == 8


@pytest.mark.parametrize("after_s", [0, 0.5, 1.5, 2.5, 3.5])
def test_a_group_is_cancelled_wherever_its_members_are(after_s):
    async def main():
        async with Dispatcher(limits(max_init=1, max_run=1, max_eval=1)) as dispatcher:
            lives = [Life() for _ in range(6)]
            plays = [
                asyncio.create_task(dispatcher.play(life, group=n % 2))
                for n, life in enumerate(lives)
            ]
            await asyncio.sleep(after_s)
            cancelled = dispatcher.cancel(0)
            endings = await asyncio.gather(*plays)
            return lives, endings, dispatcher, cancelled

    lives, endings, dispatcher, cancelled = run_virtual(main())
    ends = [ending.end for ending in endings]
    assert ends.count(End.CANCELLED) == cancelled and ends[1::2] == [End.DONE] * 3
    assert all(life.starts == life.closes for life in lives)
    assert not dispatcher.books.inside and not any(g.inside for g in dispatcher.gates.values())
    assert not any(queue.inside for queue in dispatcher.queues.values())


def test_closing_the_dispatcher_ends_all_and_takes_no_more():
    async def main():
        dispatcher = Dispatcher(limits(max_live=2))
        lives = [Life(run=1e9) for _ in range(5)]
        plays = [asyncio.create_task(dispatcher.play(life)) for life in lives]
        await asyncio.sleep(3)
        await dispatcher.close()
        endings = await asyncio.gather(*plays)
        with pytest.raises(ConfigError, match="closed"):
            await dispatcher.play(Life())
        return lives, endings

    lives, endings = run_virtual(main())
    assert {ending.end for ending in endings} == {End.CANCELLED}
    assert sorted(life.starts for life in lives) == [0, 0, 0, 1, 1]
    assert all(life.starts == life.closes for life in lives)


def test_nearly_finished_groups_go_first():
    """Of the three that wait, the one whose group has one member left runs before the others."""

    async def main():
        order = []

        class Named(Life):
            def __init__(self, name, run=1.0):
                super().__init__(init=0.1, run=run)
                self.name = name

            async def act(self):
                order.append(self.name)
                await super().act()

        async with Dispatcher(limits(max_run=1, order=order_by)) as dispatcher:
            lives = [Named("first", 5), Named("big 1"), Named("big 2"), Named("last of small")]
            await dispatcher.run(lives, ["alone", "big", "big", "small"])
        return order

    order_by = "groups"
    assert run_virtual(main()) == ["first", "last of small", "big 1", "big 2"]
    order_by = "arrival"
    assert run_virtual(main()) == ["first", "big 1", "big 2", "last of small"]


def test_a_full_queue_holds_up_the_stage_before_it():
    async def main():
        async with Dispatcher(limits(max_init=4, max_run=1, queue=2)) as dispatcher:
            plays = [asyncio.create_task(dispatcher.play(Life(run=100))) for _ in range(10)]
            await asyncio.sleep(50)
            stats, waits = dispatcher.stats(), dispatcher.waits()
            for task in plays:
                task.cancel()
            await asyncio.wait(plays)
            return stats, waits

    stats, waits = run_virtual(main())
    assert stats["starts"] == 1 + 2 + 4  # acting, in the queue, and held up with their slots
    assert stats["init/inside"] == 4 and stats["init/waiting"] == 3
    assert any(line.startswith("queue before run: 2 of 2") for line in waits)
    assert any("init: 4 of 4 inside; waiting: trajectory 7" in line for line in waits)


@pytest.mark.parametrize(
    ("given", "makespan_s", "peak"),
    [
        ({"schedule": "all"}, 3, 12),
        ({"schedule": "bounded", "max_run": 4}, 9, 4),
        ({"max_init": 4, "max_run": 4, "max_eval": 4, "queue": 0}, 5, 12),
        ({"max_init": 4, "max_run": 4, "max_eval": 4, "max_live": 4}, 9, 4),
    ],
)
def test_schedules_are_limits_of_one_dispatcher(given, makespan_s, peak):
    async def main():
        async with Dispatcher(limits(**given)) as dispatcher:
            await dispatcher.run([Life() for _ in range(12)])
            return asyncio.get_running_loop().time(), dispatcher.stats()["live/peak"]

    assert run_virtual(main()) == (makespan_s, peak)


@pytest.mark.parametrize(
    "given",
    [
        {"max_run": -1},
        {"schedule": "bounded", "max_eval": 3},
        {"schedule": "bounded", "max_run": 0},
        {"schedule": "all", "max_run": 5},
        {"run_timeout_s": 0},
        {"run_timeout_s": math.nan},
    ],
)
def test_limits_that_cannot_be_are_refused(given):
    with pytest.raises(ConfigError, match="dispatch"):
        DispatchConfig(**given)
