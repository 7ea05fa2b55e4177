"""What one caller may not do to the others, or a page to a server on the same machine."""

import asyncio

import httpx
import pytest
from pydantic import ValidationError

from evolute.engine import Engine
from evolute.server import Tenants, create_app
from evolute.server.openai.bodies import CompletionBody
from evolute.types import GenerateRequest, SamplingParams


@pytest.fixture(scope="module")
def engine():
    with Engine("tiny", memory_mb=8) as engine:
        sampling = SamplingParams(max_new_tokens=2)
        for tenant in ("alice", "bob"):
            request = GenerateRequest((1, 2), sampling, tenant=tenant, id=f"chatcmpl-{tenant}")
            asyncio.run(engine.agenerate(request))
        yield engine


def ask(engine, method, path, *, key=None, admin_key=None, keys=True, headers=(), **body):
    known = Tenants.of(["alice=ka", "bob=kb"] if keys else None, admin_key=admin_key)
    app = create_app(engine, served_names=["tiny"], tenants=known)
    headers = dict(headers) | ({"Authorization": f"Bearer {key}"} if key else {})

    async def send():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
            return await client.request(method, path, headers=headers, **body)

    return asyncio.run(send())


def test_a_million_wrong_items_are_one_complaint():
    with pytest.raises(ValidationError) as wrong:
        CompletionBody.model_validate({"prompt": [0.5] * 1_000_000})
    assert wrong.value.error_count() < 10


def test_a_tenant_sees_its_own_figures_only(engine):
    engine.apply_settings(tenant_weights="bob=3")
    for path in ("/stats", "/get_server_info"):
        found = ask(engine, "GET", path, key="ka").json()
        stats = found.get("internal_states", [found])[0]
        assert {one["tenant"] for one in stats["tenants"]} <= {"alice"}
        assert "tenant_weights" not in found
    everybody = ask(engine, "GET", "/stats", keys=False).json()["tenants"]
    assert {one["tenant"] for one in everybody} == {"alice", "bob"}


def test_administration_needs_the_admin_key_once_tenants_have_names(engine):
    refused = ask(engine, "POST", "/flush_cache", key="ka")
    assert refused.status_code == 401 and "--admin-key" in refused.text
    assert ask(engine, "POST", "/flush_cache", key="a", admin_key="a").status_code == 200
    assert ask(engine, "POST", "/flush_cache", keys=False).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://t"}, 200),
        ({}, 200),
    ],
)
def test_a_page_of_another_site_cannot_administer(engine, headers, status):
    got = ask(engine, "POST", "/flush_cache", keys=False, headers=headers)
    assert got.status_code == status


def test_an_id_from_recent_can_be_explained_by_its_tenant_only(engine):
    (visit,) = ask(engine, "GET", "/recent", key="ka").json()["outputs"]
    path = f"/explain/{visit['request_id']}"
    assert ask(engine, "GET", path, key="ka").status_code == 200
    assert ask(engine, "GET", path, key="kb").status_code == 404


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"default": nested(600)}}}
CHAT = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "x", "logit_bias": {"1" * 5000: 1}}),
        ("/v1/completions", {"prompt": "x", "priority": 10**310}),
        ("/v1/completions", {"prompt": ["x"] * 2000}),
        ("/v1/chat/completions", CHAT | {"tools": [TOOL], "tool_choice": "required"}),
    ],
)
def test_what_cannot_be_meant_is_a_client_s_error(engine, path, body):
    answer = ask(engine, "POST", path, keys=False, json=body)
    assert answer.status_code == 400 and answer.json()["error"]["message"]


def test_a_wrong_query_has_the_shape_of_all_errors(engine):
    answer = ask(engine, "GET", "/recent?limit=abc", keys=False)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "limit"


def test_a_client_that_leaves_inside_its_body_is_no_fault_of_ours(engine, caplog):
    app = create_app(engine, served_names=["tiny"])
    news = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    sent = []

    async def receive():
        return news.pop(0)

    async def send(message):
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers}
    scope |= {"query_string": b"", "http_version": "1.1", "client": ("t", 1), "scheme": "http"}
    asyncio.run(app(scope | {"server": ("t", 80), "root_path": ""}, receive, send))
    assert sent[0]["status"] == 499 and not caplog.records
