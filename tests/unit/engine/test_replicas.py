"""What replicas agree on, how their figures are added, and what is refused before any starts."""

import sys
from types import SimpleNamespace

import pytest

from evolute.engine import Engine, EngineConfig
from evolute.engine.core import Counts
from evolute.engine.replicas import ReplicaConfig, ReplicatedEngine, make_policy, totals
from evolute.engine.replicas.actor import Failed
from evolute.engine.replicas.agreement import Agreement, Call, Kept
from evolute.types import ConfigError, ModelError, OutOfCapacity, RequestError, SamplingParams


class Replica:
    """As much of one as the agreement needs."""

    def __init__(self, index, call, killed):
        self.index = index
        self.actor = SimpleNamespace(call=SimpleNamespace(remote=call))
        self.kill = lambda: killed.append(index)


class Dead(Exception):
    pass


class Late(Exception):
    pass


class Engines:
    """Replicas whose answers are written down: by ability, for each replica."""

    def __init__(self, **answers):
        self.calls = []
        self.answers, self.killed = answers, []
        exceptions = SimpleNamespace(GetTimeoutError=Late, RayActorError=Dead)
        ray = SimpleNamespace(get=self.get, put=lambda value: value, exceptions=exceptions)
        self.agreement = Agreement(SimpleNamespace(ray=ray), EngineConfig())
        self.replicas = [self.replica(i) for i in range(3)]

    def replica(self, index):
        def call(ability, *args, **settings):
            self.calls.append((index, ability, *args))
            return self.answers.get(ability, ["done"] * 3)[index]

        return Replica(index, call, self.killed)

    def get(self, answer, timeout):
        assert timeout is not None
        if isinstance(answer, Exception):
            raise answer
        return answer


LOAD, UNLOAD = Call("load_adapter", ("a",)), Call("unload_adapter", ("a",))
NO = Failed(RequestError("it does not fit."))


def test_what_all_do_is_done():
    engines = Engines(load_adapter=["info"] * 3)
    assert engines.agreement.change(engines.replicas, LOAD, UNLOAD) == "info"
    assert [call[:2] for call in engines.calls] == [(i, "load_adapter") for i in range(3)]


def test_what_one_refuses_is_undone_at_the_others():
    engines = Engines(load_adapter=["info", NO, "info"])
    with pytest.raises(RequestError, match=r"does not fit.*replica 1"):
        engines.agreement.change(engines.replicas, LOAD, UNLOAD)
    assert [c[:2] for c in engines.calls[3:]] == [(0, "unload_adapter"), (2, "unload_adapter")]
    assert engines.killed == []


def test_what_all_refuse_is_their_own_error():
    engines = Engines(load_adapter=[NO] * 3)
    with pytest.raises(RequestError) as caught:
        engines.agreement.change(engines.replicas, LOAD, UNLOAD)
    assert caught.value is NO.error and len(engines.calls) == 3


def test_who_can_neither_do_nor_undo_starts_anew():
    engines = Engines(load_adapter=["info", NO, "info"], unload_adapter=["done", "done", NO])
    with pytest.raises(RequestError):
        engines.agreement.change(engines.replicas, LOAD, UNLOAD)
    assert engines.killed == [2]


def test_who_dies_meanwhile_is_left_out_and_who_hangs_is_ended():
    engines = Engines(load_adapter=[Dead(), Late(), "info"])
    assert engines.agreement.change(engines.replicas, LOAD, UNLOAD) == "info"
    assert engines.killed == [1]
    assert engines.agreement.ask(engines.replicas, LOAD, 1.0)
    assert engines.killed == [1], "figures that are late end nobody"
    with pytest.raises(OutOfCapacity):
        Engines(stats=[Dead()] * 3).agreement.ask(engines.replicas[:0], Call("stats"))


def test_a_new_replica_gets_what_the_others_have():
    engines = Engines()
    agreed, new = engines.agreement, engines.replicas[2]
    agreed.bring_up(new, EngineConfig(max_running=8))
    assert engines.calls == [] and agreed.config.max_running == 8, "the first one decides"
    agreed.base, agreed.adapters = Kept("weights", 3), {"a": Kept("lora", 2)}
    agreed.is_paused = True
    agreed.bring_up(new, EngineConfig(max_running=4))
    told = [call[1:] for call in engines.calls]
    assert told == [
        ("apply_settings",),
        ("load_weights", "weights"),
        ("load_adapter", "a", "lora"),
        ("pause",),
    ]


def test_figures_are_added():
    with Engine("tiny", num_threads=1, memory_mb=8) as one, Engine("tiny", memory_mb=8) as two:
        one.generate(["abcdefghijklmnopqrst" * 2] * 2, SamplingParams(max_new_tokens=3))
        two.generate("z" * 40, SamplingParams(max_new_tokens=5, ignore_eos=True))
        each = [engine.stats() for engine in (one, two)]
        stats = totals.total_stats(each, Counts(output_tokens=100), [])
        assert stats.num_pages == 2 * each[0].num_pages
        made = sum(one.counts.output_tokens for one in each)
        assert made > 0 and stats.counts.output_tokens == 100 + made
        assert len(stats.tenants) == 1 and stats.tenants[0].service == sum(
            share.service for one in each for share in one.tenants
        )
        snapshot = totals.total_snapshot([one.snapshot(), two.snapshot()], stats)
        memory = snapshot.memory
        used = memory.free + memory.cached + memory.own + memory.adapters
        assert used == memory.num_pages == stats.num_pages
        assert memory.tree.num_pages == memory.cached > 0
        parents = [branch.parent for branch in memory.tree.branches]
        assert parents.count(-1) >= 2 and all(p < i for i, p in enumerate(parents))
        assert snapshot.recent[0].output_tokens == 5, "the last comes first"
        assert len(snapshot.recent) == 3


@pytest.mark.parametrize(
    ("settings", "text"),
    [({"count": 0}, "at least 1"), ({"quantum": 0}, "at least 1"), ({"routing": "x"}, "d2lpm")],
)
def test_settings_that_cannot_be_are_refused(settings, text):
    with pytest.raises(ConfigError, match=text):
        ReplicaConfig(**settings)


def test_each_routing_has_a_policy():
    for routing in ("d2lpm", "cache_aware", "least_loaded", "round_robin"):
        make_policy(ReplicaConfig(2, routing)).add(0)


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install evolute\[ray\]"):
        ReplicatedEngine("tiny")


def test_faults_of_settings_and_models_come_before_any_process(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # it is not even looked for
    with pytest.raises(ModelError, match="no model"):
        ReplicatedEngine("nothing")
    with pytest.raises(ConfigError, match=r"needs engine\.executor"):
        ReplicatedEngine("tiny", precision="quantized", executor="torch")
