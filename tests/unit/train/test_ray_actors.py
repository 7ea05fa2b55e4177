"""What is done when an actor dies, fails, hangs or differs, with doubles in place of Ray."""

import asyncio
import contextlib
import dataclasses
import threading
import time

import pytest
from ray_double import FakeCluster

from evolute.engine.replicas.actor import Failed
from evolute.models import LoraConfig, LoraWeights, load_model
from evolute.train import RayConfig, SyncConfig, TrainConfig, UpdateReport
from evolute.train.checkpoint import TrainerState
from evolute.train.failures import class_of
from evolute.train.ray.calls import Calls, GroupError
from evolute.train.ray.engines import Held
from evolute.train.ray.group import TrainerGroup
from evolute.train.ray.publication import Publication
from evolute.train.ray.rank import RankFacts, RankUpdate
from evolute.train.ray.workers import Workers
from evolute.train.sync import PublishProof
from evolute.types import (
    BackendError,
    Outcome,
    Problem,
    RequestError,
    Rollout,
    TrainingError,
    WorkerLost,
)

CONFIG = TrainConfig(model="tiny", ray=RayConfig(engines=1, trainers=3, collective_timeout_s=20.0))
WEIGHTS = LoraWeights.init(LoraConfig(rank=2), load_model("tiny").config, 0)


class Rank:
    """A trainer rank whose answers are written down by method; a callable is called."""

    def __init__(self, rank, script):
        self.rank, self.script = rank, script

    def __getattr__(self, method):
        def call(*args):
            answer = self.script.get((self.rank, method), self.script.get(method))
            return answer(self.rank, *args) if callable(answer) else answer

        return call


SOUND = {
    "address": "host:1",
    "join": lambda rank, address: RankFacts(rank, 1, "node", "same"),
    "update": lambda rank, rollouts: RankUpdate(UpdateReport(rank + 5, {}), "same"),
    "checkpoint_state": lambda rank: TrainerState(1, {}) if rank == 0 else None,
    "check_state": "",
    "restore_state": "same",
}


@contextlib.contextmanager
def group(tmp_path, config=CONFIG, **changes):
    script = SOUND | {_key(name): value for name, value in changes.items()}
    cluster = FakeCluster(lambda cls, args: Rank(args[0], script))
    made = TrainerGroup(cluster, lambda rank: {}, config, tmp_path, Engines())
    try:
        yield made, cluster
    finally:
        made.close()


def _key(name):
    """`update_1` is rank 1's answer."""
    method, _, rank = name.rpartition("_")
    return (int(rank), method) if rank.isdigit() else name


def die(*_):
    raise SystemExit


def hang(*_):
    time.sleep(60)


def test_a_sound_step_is_rank_zeros_report(tmp_path):
    with group(tmp_path) as (made, cluster):
        assert asyncio.run(made.update([])).num_tokens == 5
        assert made.checkpoint_state().updates == 1 and made.awaited() == []
        made.restore_state(TrainerState(1, {}))
    assert len(cluster.killed) == 3, "all ranks are ended with the run"


def test_a_rank_that_dies_ends_the_step_and_is_named(tmp_path):
    with group(tmp_path, update_1=die) as (made, cluster):
        with pytest.raises(TrainingError, match=r"rank 1 of 3 is gone.*`update`.*resume"):
            asyncio.run(made.update([]))
        assert len(cluster.killed) == 3, "its fellows wait for nobody"
        with pytest.raises(GroupError, match="has ended"):
            asyncio.run(made.update([]))


def test_a_rank_that_dies_while_others_hang_costs_no_timeout(tmp_path):
    began = time.monotonic()
    with (
        group(tmp_path, update=hang, update_2=die) as (made, _),
        pytest.raises(TrainingError, match="rank 2 of 3"),
    ):
        asyncio.run(made.update([]))
    assert time.monotonic() - began < 15


def test_a_rank_that_hangs_is_named_after_the_limit(tmp_path):
    config = dataclasses.replace(CONFIG, episode_timeout_s=1.0, stall_timeout_s=1.0)
    with group(tmp_path, config, update_1=hang) as (made, _):
        seen = []

        async def look():
            update = asyncio.create_task(made.update([]))
            await asyncio.sleep(0.4)
            seen.extend(made.awaited())
            await update

        with pytest.raises(TrainingError, match=r"within 1 s from trainer rank 1 \(update\)"):
            asyncio.run(look())
    assert seen == ["trainer rank 1 (update)"], "the watch-dog can tell who is waited for"


def test_ranks_that_differ_are_an_error(tmp_path):
    odd = RankUpdate(UpdateReport(5, {}), "other")
    with (
        group(tmp_path, update_2=odd) as (made, _),
        pytest.raises(TrainingError, match="rank 2 holds other"),
    ):
        asyncio.run(made.update([]))
    with (
        pytest.raises(TrainingError, match="the start"),
        group(tmp_path, join_1=RankFacts(1, 1, "node", "another seed")),
    ):
        pass


def test_of_failures_the_first_cause_is_told(tmp_path):
    own = Failed(TrainingError("the loss is not finite"))
    theirs = Failed(TrainingError("trainer rank 2 failed, so nobody goes on: the loss"))
    with (
        group(tmp_path, update=theirs, update_2=own) as (made, _),
        pytest.raises(TrainingError, match=r"^the loss is not finite"),
    ):
        asyncio.run(made.update([]))


def test_a_bug_in_a_rank_is_told_and_ends_the_group(tmp_path):
    def bug(*_):
        raise ZeroDivisionError("of a rank")

    with group(tmp_path, update_0=bug) as (made, cluster):
        with pytest.raises(TrainingError, match=r"rank 0 failed.*ZeroDivisionError"):
            asyncio.run(made.update([]))
        assert len(cluster.killed) == 3


def test_a_state_that_does_not_fit_is_no_checkpoint(tmp_path):
    with (
        group(tmp_path, check_state="KeyError: 'q'") as (made, _),
        pytest.raises(ValueError, match="KeyError"),
    ):
        made.check_state(TrainerState(1, {}))


def test_a_stop_reaches_who_waits():
    cluster = FakeCluster(lambda cls, args: Rank(0, {"update": hang}))
    calls = Calls(cluster.ray, "rank")
    actor = cluster.start_actor(Rank, (), 1)
    threading.Timer(0.2, calls.stop).start()
    with pytest.raises(GroupError, match="the run ends"):
        calls.all([actor], "update", timeout_s=50.0)


# -- weights -----------------------------------------------------------------------


class Engines:
    """Three engines, of which some die while they get weights."""

    def __init__(self, held=None, deaths=()):
        self.actors = {0: "a", 1: "b", 2: "c"}
        self.held, self.deaths = held or {}, list(deaths)
        self.events, self.fetch = [], None

    @contextlib.contextmanager
    def steady(self):
        yield

    def living(self):
        return dict(self.actors)

    def have_died(self, actors):
        return [index for index, actor in actors.items() if self.actors.get(index) is not actor]

    def later(self, fetch):
        self.fetch = fetch

    def pause(self):
        self.events.append("pause")

    def resume(self):
        self.events.append("resume")

    def install(self, name, kept, canary, timeout_s):
        self.events.append("install")
        sound = Held("digest", [-1.0, -2.0], "float32")
        return {index: self.held.get(index, sound) for index in self.actors}


class Ranks:
    def __init__(self, engines, broken=False):
        self.engines, self.broken, self.sent = engines, broken, []

    def ask(self, method, *args, timeout_s=0.0):
        assert method == "prepare"
        return ["digest"]

    def ask_first(self, method, *args, timeout_s=0.0):
        if method == "canary":
            return [-1.0, -2.0]
        assert method == "send"
        self.sent.append(args[2])
        if self.broken:
            raise GroupError("engine 1 did not prove weights 3")
        if self.engines.deaths:
            del self.engines.actors[self.engines.deaths.pop(0)]
            raise GroupError("an engine died while it got weights")
        return [PublishProof(3, "digest", 0.1 * i) for i in range(len(args[2]))]

    def reference(self, method, *args):
        return (method, *args)


def publication(engines, way, tmp_path, **settings):
    ranks = Ranks(engines, **settings)
    return ranks, Publication(ranks, engines, SyncConfig(way=way), tmp_path)


def test_each_engine_proves_what_it_holds(tmp_path):
    engines = Engines()
    proof = publication(engines, "publish", tmp_path)[1].publish(
        "policy", 3, (1, 2, 3), freeze=True
    )
    assert proof == PublishProof(3, "digest", 0.0, 3)
    assert engines.events == ["pause", "install", "resume"]


@pytest.mark.parametrize(
    ("held", "why"),
    [
        (Held("stale", [-1.0, -2.0], "float32"), "did not arrive"),
        (Held("digest", [-1.0, -2.5], "float32"), "compute different models"),
        (Held("digest", [-1.0], "float32"), "told 1 log-probabilities"),
    ],
)
def test_an_engine_without_proof_is_named(tmp_path, held, why):
    engines = Engines({1: held})
    with pytest.raises(TrainingError, match=why) as caught:
        publication(engines, "publish", tmp_path)[1].publish("policy", 3, (1, 2, 3), freeze=True)
    assert "engine 1" in str(caught.value) and engines.events[-1] == "resume"


def test_who_dies_on_the_way_is_left_out_and_may_fetch_later(tmp_path):
    engines = Engines(deaths=[1])
    ranks, made = publication(engines, "delta", tmp_path)
    assert made.publish("policy", 3, (1, 2, 3), freeze=False).num_engines == 2
    assert ranks.sent == [["a", "b", "c"], ["a", "c"]]
    name, kept = engines.fetch()
    assert (name, kept.version, kept.weights) == ("policy", 3, ("kept", 3))
    made.close()
    assert not list((tmp_path / "weights").iterdir()), "nothing stays behind"


def test_while_no_engine_lives_the_next_one_is_waited_for(tmp_path):
    engines = Engines(deaths=[0, 1, 2])
    ranks, made = publication(engines, "shared_memory", tmp_path)

    def come_back():
        while engines.actors:
            time.sleep(0.01)
        engines.actors[1] = "new"

    threading.Thread(target=come_back, daemon=True).start()
    assert made.publish("policy", 3, (1, 2, 3), freeze=False).num_engines == 1
    assert ranks.sent[-1] == ["new"]
    made.close()


def test_a_living_engine_without_proof_is_not_tried_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("evolute.train.ray.publication.SETTLE_S", 0.2)
    ranks, made = publication(Engines(), "broadcast", tmp_path, broken=True)
    with pytest.raises(TrainingError, match="engine 1"):
        made.publish("policy", 3, (1, 2, 3), freeze=False)
    assert len(ranks.sent) == 1


# -- workers -----------------------------------------------------------------------

PROBLEM = Problem("p0", (), "1")


class Member:
    """A worker that dies at some of its plays."""

    def __init__(self, index, deaths=0, is_alive=True, error=None):
        self.index, self.deaths, self.is_alive, self.error = index, deaths, is_alive, error
        self.played = []

    async def play(self, problem, *, group, index, seed):
        await asyncio.sleep(0.01)
        if self.error:
            raise self.error
        if self.deaths:
            self.deaths -= 1
            raise WorkerLost(f"rollout worker {self.index} died")
        self.played.append(index)
        return Rollout(problem.id, group, index, 1.0, Outcome.DONE, (), metrics={"seed": seed})


async def plays(workers, count=12):
    jobs = (workers.play(PROBLEM, group=2, index=i, seed=7) for i in range(count))
    return await asyncio.gather(*jobs)


def test_episodes_go_to_who_has_the_fewest():
    members = [Member(0), Member(1), Member(2)]
    asyncio.run(plays(Workers(members, 3, 5.0)))
    assert [len(member.played) for member in members] == [4, 4, 4]


def test_a_death_costs_no_episode_and_is_told():
    members = [Member(0, deaths=3), Member(1)]
    workers = Workers(members, 5, 5.0)
    rollouts = asyncio.run(plays(workers))
    assert [r.index for r in rollouts] == list(range(12)), "none lost, none twice"
    assert {r.metrics["seed"] for r in rollouts} == {7}, "with the seed it had"
    told = [r.metadata["requeued"] for r in rollouts if "requeued" in r.metadata]
    assert sum(map(len, told)) == workers.num_requeued == 3


def test_an_episode_that_kills_every_worker_has_failed():
    rollout = asyncio.run(
        Workers([Member(0, deaths=99)], 2, 5.0).play(PROBLEM, group=1, index=4, seed=1)
    )
    assert rollout.outcome is Outcome.FAILED and rollout.failure == "WorkerLost"
    assert (rollout.group, rollout.index, class_of(rollout)) == (1, 4, "environment")


def test_settings_that_cannot_work_and_a_desert_are_told():
    refusing = Workers([Member(0, error=RequestError("no such adapter"))], 3, 5.0)
    with pytest.raises(RequestError):
        asyncio.run(plays(refusing, 1))
    desert = Workers([Member(0, is_alive=False)], 3, 0.3)
    with pytest.raises(BackendError, match="no rollout worker lived"):
        asyncio.run(plays(desert, 1))


def test_workers_that_come_back_are_waited_for():
    member = Member(0, is_alive=False)

    async def revive():
        await asyncio.sleep(0.3)
        member.is_alive = True

    async def both():
        return (await asyncio.gather(plays(Workers([member], 3, 20.0), 3), revive()))[0]

    assert len(asyncio.run(both())) == 3
