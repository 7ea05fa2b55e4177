"""The live page's data over HTTP: who may see what, and how often the engine is asked."""

import asyncio
import json
import threading

import httpx
import pytest

from evolute.dashboard.live import live_router
from evolute.dashboard.live.document import document
from evolute.dashboard.live.routes import Looks
from evolute.engine import Engine
from evolute.server import Tenants, create_app
from evolute.server.errors import FieldError
from evolute.testing import ScriptedBackend
from evolute.types import GenerateRequest, SamplingParams

SHORT = SamplingParams(max_new_tokens=2, temperature=0)
HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def engine():
    with Engine("tiny", page_size=4) as engine:

        async def traffic():
            for tenant in ("alice", "bob", HOSTILE):
                for i in range(3):
                    prompt = (*range(40), i)
                    request = GenerateRequest(prompt, SHORT, tenant=tenant, cache_salt="s3cret")
                    await engine.agenerate(request)

        asyncio.run(traffic())
        yield engine


def ask(engine, path, key=None, **settings):
    async def send():
        app = create_app(
            engine, served_names=["tiny"], extra_routers=[live_router(engine)], **settings
        )
        transport = httpx.ASGITransport(app)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(send())


def test_one_answer_has_everything_and_adds_up(engine):
    data = ask(engine, "/dashboard/data").json()
    memory = data["memory"]
    owned = memory["free"] + memory["cached"] + memory["own"] + memory["adapters"]
    assert owned == memory["num_pages"]
    assert sum(b["num_pages"] for b in memory["tree"]["branches"]) == memory["cached"] > 0
    assert data["tenant"] is None and len(data["recent"]) == 9
    assert {visit["tenant"] for visit in data["recent"]} == {"alice", "bob", HOSTILE}
    assert all(visit["ended_ago_s"] >= 0 for visit in data["recent"])
    assert data["counts"]["finished"] == 9 and len(data["seconds"]) == 300
    assert "s3cret" not in json.dumps(data)
    assert data["memory"]["tree"]["spaces"][0]["is_salted"]


def test_the_page_needs_no_key_and_its_data_does(engine):
    tenants = Tenants.of(["alice=a-key", "plain-key"])
    page = ask(engine, "/", tenants=tenants)
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert ask(engine, "/dashboard/data", tenants=tenants).status_code == 401
    assert ask(engine, "/dashboard/data", "wrong", tenants=tenants).status_code == 401
    everybody = ask(engine, "/dashboard/data", "plain-key", tenants=tenants).json()
    assert len(everybody["recent"]) == 9


def test_a_tenant_s_key_sees_that_tenant_only(engine):
    tenants = Tenants.of(["alice=a-key", "bob=b-key"])
    data = ask(engine, "/dashboard/data", "a-key", tenants=tenants).json()
    assert data["tenant"] == "alice"
    assert [visit["tenant"] for visit in data["recent"]] == ["alice"] * 3
    assert {share["tenant"] for share in data["tenants"]} <= {"alice"}
    assert '"bob"' not in json.dumps(data)


def test_a_backend_that_cannot_be_watched_says_so():
    answer = ask(ScriptedBackend(), "/dashboard/data")
    assert answer.status_code == 501 and "cannot be watched" in answer.json()["error"]["message"]


class Counted:
    """An engine that counts how often it is asked, and can be slow or broken."""

    def __init__(self, engine):
        self._engine, self.asked, self.error = engine, [], None
        self.config, self.model_name = engine.config, engine.model_name

    def snapshot(self, tenant=None):
        self.asked.append(tenant)
        if self.error:
            raise self.error
        return self._engine.snapshot(tenant)


def test_many_who_look_at_once_cost_one_look_each_tenant(engine):
    async def look():
        counted = Counted(engine)
        looks = Looks(counted)
        await asyncio.gather(*(looks.take(t) for t in [None, "alice"] * 20))
        return counted.asked

    assert sorted(map(str, asyncio.run(look()))) == ["None", "alice"]


def test_a_look_that_failed_is_not_shown_to_the_next(engine):
    async def look():
        counted = Counted(engine)
        looks, counted.error = Looks(counted), RuntimeError("gone")
        with pytest.raises(RuntimeError):
            await looks.take(None)
        counted.error = None
        return (await looks.take(None))["model"], len(counted.asked)

    assert asyncio.run(look()) == (engine.model_name, 2)


def test_an_engine_that_hangs_is_told_and_asked_by_one_thread(engine, monkeypatch):
    release = threading.Event()

    class Hanging(Counted):
        def snapshot(self, tenant=None):
            self.asked.append(tenant)
            release.wait(20)
            return self._engine.snapshot(tenant)

    async def look():
        hanging = Hanging(engine)
        looks = Looks(hanging)
        for _ in range(3):
            with pytest.raises(FieldError, match="busy or hangs"):
                await looks.take(None)
        release.set()
        return (await looks.take(None))["model"], len(hanging.asked)

    monkeypatch.setattr("evolute.dashboard.live.routes.WAIT_S", 0.05)
    assert asyncio.run(look()) == (engine.model_name, 1)


def test_the_document_stands_alone_and_its_policy_fits_it():
    page, headers = document()
    assert "{{" not in page and "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page and "innerHTML" not in page
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
