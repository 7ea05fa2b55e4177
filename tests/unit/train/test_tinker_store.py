"""The service's memory in SQLite and in PostgreSQL: the same rows, the same failures."""

import dataclasses
import sys
import threading

import pytest
from postgres import postgres

from evolute.train.tinker import ServiceConfig
from evolute.train.tinker.records import Future, Kind, Model, Sampler, Session, Status
from evolute.train.tinker.store import Store
from evolute.types import CheckpointError, ConfigError

SESSION = Session("s", "me", 1.5, 2.5, extra={"tags": ["a"], "of": {"b": None}})
MODEL = Model("m", "me", "s", "tiny", 4, 7, ("q_proj", "v_proj"), 1.0, 2.0)
FUTURE = Future("f", Kind.STEP, "me", "s", None, None, "ab", b"\x00\xff", 3.0)


@pytest.fixture(scope="module")
def server():
    with postgres() as found:
        yield found


@pytest.fixture(params=["sqlite", "postgres"])
def where(request, tmp_path):
    if request.param == "sqlite":
        return tmp_path / "service.db"
    found = request.getfixturevalue("server")
    wipe(found.url)
    return found.url


def wipe(url):
    import psycopg

    with psycopg.connect(url, autocommit=True) as database:
        database.execute("DROP SCHEMA public CASCADE")
        database.execute("CREATE SCHEMA public")


@pytest.fixture
def store(where):
    made = Store(where)
    yield made
    made.close()


def bare(row):
    return dataclasses.replace(row, number=0)


def test_rows_come_back_as_they_went_and_in_order(store, where):
    for row in (SESSION, MODEL, FUTURE, dataclasses.replace(FUTURE, id="g", model_id="m", seq=3)):
        store.put(row)
    store.put(Sampler("x", "me", "s", "tiny", None, 1.0, 1.0, is_unnamed=True))
    store.close()
    again = Store(where)
    assert bare(again.get(Session, "s")) == SESSION and bare(again.get(Model, "m")) == MODEL
    assert [f.id for f in again.find(Future)] == ["f", "g"]
    assert bare(again.find(Future, "status = ?", Status.PENDING)[0]) == FUTURE
    assert again.find(Sampler, "is_unnamed = 1")[0].is_unnamed is True
    assert again.get(Model, "another") is None and again.count(Future) == 2
    rows, total = again.page(Future, 1, 0, "owner = ?", "me")
    assert [f.id for f in rows] == ["g"] and total == 2
    again.close()


def test_changes(store):
    store.put(FUTURE)
    store.put(dataclasses.replace(FUTURE, id="g"))
    store.change(Future, "f", status=Status.DONE, result=b"r", batch=5, payload=None)
    found = store.get(Future, "f")
    assert (found.status, found.result, found.payload) == (Status.DONE, b"r", None)
    assert store.last_batch() == 5
    assert store.change_all(Future, "status = ?", Status.PENDING, error="e") == 1
    store.replace(dataclasses.replace(FUTURE, owner="you"))
    assert store.get(Future, "f").owner == "you" and store.count(Future) == 2
    assert store.delete(Future, "id = ?", "g") == 1 and store.count(Future) == 1


def test_all_of_a_transaction_or_nothing(store):
    def half():
        with store.transaction():
            store.put(MODEL)
            store.put(SESSION)  # its key is taken

    store.put(SESSION)
    with pytest.raises(CheckpointError):
        half()
    assert store.get(Model, "m") is None
    with store.transaction():
        store.put(MODEL)
        with store.transaction():
            store.put(FUTURE)
    assert store.get(Model, "m") and store.get(Future, "f")


def test_several_threads(store):
    def work(number):
        for i in range(20):
            with store.transaction():
                store.put(dataclasses.replace(FUTURE, id=f"{number}-{i}"))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert store.count(Future) == 80


def test_a_database_of_another_version_is_refused(where):
    first = Store(where)
    first._db.set_version(99)
    first.close()
    with pytest.raises(ConfigError, match="version 99"):
        Store(where)


def test_one_service_a_database(server):
    wipe(server.url)
    first = Store(server.url)
    with pytest.raises(ConfigError, match="another training service"):
        Store(server.url)
    first.close()
    Store(server.url).close()


def test_a_server_that_goes_away_and_comes_back(server):
    def cut():
        with store.transaction():
            store.put(MODEL)
            server.stop()
            server.start()
            store.put(FUTURE)  # nobody knows of the half that was lost

    wipe(server.url)
    store = Store(server.url)
    store.put(SESSION)
    with pytest.raises(CheckpointError):
        cut()
    assert store.get(Model, "m") is None and bare(store.get(Session, "s")) == SESSION
    store.put(MODEL)
    server.stop()
    server.start()
    store.put(FUTURE)
    assert store.get(Model, "m") and store.get(Future, "f")
    store.close()


def test_what_cannot_be_used_is_told_without_its_password(monkeypatch):
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:9/x") as told:
        Store("postgresql://me:secret@127.0.0.1:9/x")
    assert "secret" not in str(told.value)
    with pytest.raises(ConfigError, match="postgresql://HOST/NAME"):
        ServiceConfig(database="mysql://x")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"evolute\[postgres\]"):
        Store("postgresql://127.0.0.1:9/x")
