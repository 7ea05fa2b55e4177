"""Whatever lifecycles do, limits hold at every instant, ends are counted once, all is closed."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from evolute.agents.dispatcher import DispatchConfig, Dispatcher, End
from evolute.telemetry.virtual_time import run_virtual
from evolute.types import SandboxError

STAGES = ("init", "run", "eval")
DEED = st.sampled_from(["go"] * 6 + ["raise", "hang", "stubborn"])
LIFE = st.fixed_dictionaries(
    {
        "group": st.integers(0, 3),
        "times": st.lists(st.integers(0, 9), min_size=4, max_size=4),
        "deeds": st.lists(DEED, min_size=3, max_size=3),
        "later": st.sampled_from(["again", "mended"]),  # after its first failure
        "close": st.sampled_from(["go", "go", "go", "raise", "hang"]),
        "cancel": st.none() | st.integers(0, 40),
        "arrives": st.integers(0, 5),
    }
)
LIMIT = st.integers(1, 4)


class Probe:
    """How many are in each stage now; checked on each way in."""

    def __init__(self, config):
        self.config, self.now = config, {name: 0 for name in ("live", *STAGES)}

    def enter(self, name):
        self.now[name] += 1
        limit = self.config.limit(f"max_{name}")
        assert not limit or self.now[name] <= limit, f"{self.now[name]} in {name}, {limit} allowed"

    def leave(self, name):
        self.now[name] -= 1


class Life:
    def __init__(self, plan, probe):
        self.plan, self.probe = plan, probe
        self.starts = self.closes = 0
        self.failed = set()
        self.is_live = False

    async def _stage(self, name):
        place = STAGES.index(name)
        deed = self.plan["deeds"][place]
        if name in self.failed and self.plan["later"] == "mended":
            deed = "go"
        self.probe.enter(name)
        try:
            await asyncio.sleep(self.plan["times"][place])
            if deed == "go":
                return
            self.failed.add(name)
            if deed == "raise":
                raise SandboxError("broken")
            try:
                await asyncio.sleep(1e6)
            except asyncio.CancelledError:
                if deed == "stubborn":
                    await asyncio.sleep(0.25)  # takes a while to end
                raise
        finally:
            self.probe.leave(name)

    async def start(self):
        assert not self.is_live, "started twice without a close"
        self.is_live = True
        self.starts += 1
        self.probe.enter("live")
        await self._stage("init")

    async def act(self):
        await self._stage("run")

    async def grade(self):
        await self._stage("eval")
        return self

    async def close(self):
        assert self.is_live
        self.is_live = False
        self.closes += 1
        try:
            await asyncio.sleep(self.plan["times"][3] / 10)
            if self.plan["close"] == "raise":
                raise OSError("cannot be closed")
            if self.plan["close"] == "hang":
                await asyncio.sleep(1e6)
        finally:
            self.probe.leave("live")


CONFIGS = st.one_of(
    st.builds(
        DispatchConfig,
        max_live=st.integers(0, 5),
        max_init=LIMIT,
        max_run=LIMIT,
        max_eval=LIMIT,
        queue=st.integers(0, 2),
        order=st.sampled_from(["groups", "arrival"]),
        retries=st.integers(0, 2),
        init_timeout_s=st.just(20.0),
        run_timeout_s=st.just(20.0),
        eval_timeout_s=st.just(20.0),
        close_timeout_s=st.just(3.0),
        grace_s=st.just(1.0),
    ),
    st.builds(
        DispatchConfig,
        schedule=st.just("bounded"),
        max_run=LIMIT,
        init_timeout_s=st.just(20.0),
        run_timeout_s=st.just(20.0),
        eval_timeout_s=st.just(20.0),
        close_timeout_s=st.just(3.0),
    ),
)


async def dispatched(config, plans):
    probe, lives = Probe(config), [Life(plan, None) for plan in plans]
    async with Dispatcher(config) as dispatcher:

        async def one(life):
            life.probe = probe
            await asyncio.sleep(life.plan["arrives"])
            return await dispatcher.play(life, group=life.plan["group"])

        async def cancel(life, task):
            await asyncio.sleep(life.plan["cancel"])
            task.cancel()

        tasks = [asyncio.create_task(one(life)) for life in lives]
        cancels = [
            asyncio.create_task(cancel(life, task))
            for life, task in zip(lives, tasks)
            if life.plan["cancel"] is not None
        ]
        endings = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*cancels)
        return probe, lives, endings, dispatcher


@given(CONFIGS, st.lists(LIFE, min_size=1, max_size=14))
def test_limits_hold_and_the_books_balance(config, plans):
    probe, lives, endings, dispatcher = run_virtual(dispatched(config, plans), limit_s=1e5)
    for ending in endings:
        assert isinstance(ending, asyncio.CancelledError) or ending.end in (End.DONE, End.FAILED)
    books = dispatcher.books
    assert books.submitted == sum(books.ended.values()) and not books.inside
    told = [ending for ending in endings if not isinstance(ending, asyncio.CancelledError)]
    assert books.ended[End.DONE] >= sum(ending.end is End.DONE for ending in told)
    assert books.ended[End.FAILED] >= sum(ending.end is End.FAILED for ending in told)
    assert all(life.starts == life.closes and not life.is_live for life in lives)
    assert not any(probe.now.values())
    for gate in (*dispatcher.gates.values(), *dispatcher.queues.values()):
        assert gate.inside == gate.waiting == 0
        assert not gate.limit or gate.peak_inside <= gate.limit


@given(CONFIGS, st.lists(LIFE, min_size=1, max_size=10))
def test_what_does_nothing_wrong_is_done(config, plans):
    calm = [{**plan, "deeds": ["go"] * 3, "cancel": None} for plan in plans]
    _, lives, endings, _ = run_virtual(dispatched(config, calm), limit_s=1e5)
    assert [ending.value for ending in endings] == lives


@given(CONFIGS, st.lists(LIFE, min_size=1, max_size=8))
def test_equal_draws_give_equal_runs(config, plans):
    def seconds():
        _, _, endings, _ = run_virtual(dispatched(config, plans), limit_s=1e5)
        return [getattr(ending, "seconds", None) for ending in endings]

    assert seconds() == seconds()
