"""A replica's number outlives its actors: deaths, silence and failed starts are noticed."""

import queue
import threading
import time
from types import SimpleNamespace

import pytest

from evolute.engine import EngineConfig, Heartbeat
from evolute.engine.replicas import replica as rooms
from evolute.engine.replicas.actor import Beat, Facts
from evolute.engine.replicas.replica import Replica
from evolute.types import BackendError

FACTS = Facts(1, "here", EngineConfig(), 10)
WELL = Heartbeat(True, False, 0.0, 5, 50)
PATIENCE_S = 10.0


class Died(Exception):
    pass


class Cluster:
    """Ray without Ray: an actor is a queue of batches; an exception in it is its death."""

    def __init__(self, *, starts=()):
        self.starts = list(starts)  # what the next actors say when they are asked for facts
        self.actors, self.killed = [], []
        errors = SimpleNamespace(RayActorError=Died)
        self.ray = SimpleNamespace(get=self.get, wait=self.wait, exceptions=errors)

    def start(self):
        answer = self.starts.pop(0) if self.starts else FACTS
        news = queue.Queue()
        actor = SimpleNamespace(facts=SimpleNamespace(remote=lambda: answer), news=news)
        self.actors.append(actor)
        return actor

    def follow(self, actor):
        return iter(actor.news.get, None)

    def get(self, value, timeout):
        assert timeout is not None
        if isinstance(value, Exception):
            raise value
        return value

    def wait(self, streams, timeout):
        ends_s, news = time.monotonic() + timeout, self.actors[-1].news
        while news.empty() and time.monotonic() < ends_s:
            time.sleep(0.002)
        return ([] if news.empty() else streams), []

    def kill(self, actor):
        self.killed.append(actor)
        actor.news.put(Died("it was killed"))


class Owner:
    def __init__(self):
        self.heard, self.lost_for, self.admitted = [], [], threading.Event()

    def admit(self, replica):
        replica.is_alive = True
        self.admitted.set()

    def hear(self, replica, batch):
        self.heard += batch

    def lost(self, replica):
        self.lost_for.append(replica.why)


@pytest.fixture
def life(monkeypatch):
    monkeypatch.setattr(rooms, "POLL_S", 0.01)
    begun = []

    def begin(**settings):
        cluster, owner = Cluster(**settings), Owner()
        replica = Replica(0, cluster, cluster.start, owner)
        replica.begin()
        begun.append(replica)
        return replica, cluster, owner

    yield begin
    for replica in begun:
        replica.end()
        replica.join()
        assert not replica._thread.is_alive()


def until(condition):
    ends_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends_s
        time.sleep(0.005)


def test_news_go_to_the_owner_and_beats_are_kept(life):
    replica, cluster, owner = life()
    replica.wait(PATIENCE_S)
    cluster.actors[0].news.put([Beat(WELL, None), (3, "delta")])
    until(lambda: owner.heard)
    assert replica.heartbeat == WELL and owner.heard[1] == (3, "delta")


def test_who_dies_is_started_anew(life):
    replica, cluster, owner = life()
    replica.wait(PATIENCE_S)
    cluster.actors[0].news.put(Died("killed by somebody"))
    until(lambda: len(cluster.actors) == 2 and replica.is_alive)
    assert owner.lost_for == ["its process ended"] and replica.restarts == 1


def test_who_is_silent_is_taken_for_dead(life, monkeypatch):
    monkeypatch.setattr(rooms, "SILENT_S", 0.2)
    monkeypatch.setattr(rooms, "BEAT_S", 0.02)
    replica, cluster, owner = life()
    replica.wait(PATIENCE_S)
    until(lambda: replica.heartbeat.busy_s > 0.06)  # silence is told before it is an end
    until(lambda: owner.lost_for)
    assert "silent" in owner.lost_for[0] and cluster.killed[0] is cluster.actors[0]


def test_an_engine_whose_thread_ended_is_no_replica(life):
    replica, cluster, owner = life()
    replica.wait(PATIENCE_S)
    cluster.actors[0].news.put([Beat(Heartbeat(False, False, 0.0, 5, 50), None)])
    until(lambda: owner.lost_for)
    assert "thread has ended" in owner.lost_for[0] and cluster.actors[0] in cluster.killed


def test_a_start_that_fails_says_why_and_is_tried_again(life):
    fault = Died("The actor died because of an error:\n  Traceback\nValueError: no such file")
    replica, cluster, _ = life(starts=[fault, fault, FACTS])
    with pytest.raises(BackendError, match="no such file"):
        replica.wait(PATIENCE_S)
    assert not replica.heartbeat.is_alive
    until(lambda: replica.is_alive)
    assert len(cluster.actors) == 3


def test_a_start_that_takes_too_long_is_told(life, monkeypatch):
    never = threading.Event()
    monkeypatch.setattr(Owner, "admit", lambda self, replica: never.wait(PATIENCE_S))
    replica, _, _ = life()
    with pytest.raises(BackendError, match=r"within 0.1 s"):
        replica.wait(0.1)
    never.set()
