"""Who asks why a request waits is told the limit and the policy's reason, and later its end."""

import asyncio

import httpx
import pytest

from evolute.engine import Engine
from evolute.server import create_app
from evolute.types import GenerateRequest, RequestError, SamplingParams

LONG = SamplingParams(max_new_tokens=200, temperature=0, ignore_eos=True)


@pytest.fixture
def engine():
    with Engine("tiny", max_running=2, memory_mb=8, page_size=16) as engine:
        yield engine


async def explained(engine, policy):
    engine.apply_settings(policy=policy)
    requests = [
        GenerateRequest((1 + i, 2, 3), LONG, tenant="rollouts", id=f"r{i}-{policy}")
        for i in range(5)
    ]
    tasks = [asyncio.ensure_future(engine.agenerate(request)) for request in requests]
    waiting = []
    while not waiting:
        await asyncio.sleep(0.005)
        found = [engine.explain(request.id) for request in requests]
        assert any(found), "all ended before anybody could ask"
        waiting = [e for one in found for e in one if e.state == "waiting" and e.limit]
    for task in tasks:
        await task
    return waiting[0]


@pytest.mark.parametrize("policy", ["fcfs", "lpm", "vtc", "dlpm", "priority"])
def test_a_waiting_request_is_told_the_limit_and_the_policy_s_reason(engine, policy):
    found = asyncio.run(explained(engine, policy))
    assert "engine.max_running" in found.limit
    assert found.tenant == "rollouts" and found.why
    visit = next(v for v in engine.recent() if v.request_id == found.request_id)
    assert "engine.max_running" in visit.waited_for
    assert 0 < visit.waited_s < visit.first_token_s < visit.total_s
    assert visit.output_tokens == 200 and visit.finish_reason == "length"
    assert engine.explain(found.request_id) == []


def test_over_http_unknown_ids_are_404_and_ended_ones_are_found(engine):
    async def ask():
        transport = httpx.ASGITransport(create_app(engine, served_names=["tiny"]))
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
            await engine.agenerate(
                GenerateRequest((1, 2), SamplingParams(max_new_tokens=2), id="x")
            )
            ended = await client.get("/explain/x")
            recent = await client.get("/recent?limit=1")
            return (
                ended,
                recent,
                await client.get("/explain/nobody"),
                await client.get("/recent?limit=0"),
            )

    ended, recent, unknown, bad = asyncio.run(ask())
    assert ended.json()["outputs"][0]["output_tokens"] == 2
    assert recent.json()["outputs"][0]["request_id"] == "x"
    assert unknown.status_code == 404 and bad.status_code == 400


def test_a_priority_that_no_policy_knows_is_refused(engine):
    request = GenerateRequest((1, 2), LONG, priority=3)
    with pytest.raises(RequestError, match=r"engine\.policy=priority"):
        asyncio.run(engine.agenerate(request))
    engine.apply_settings(policy="priority")
    assert asyncio.run(engine.agenerate(request))[0].token_ids


def test_shares_of_tenants_are_visible_and_weights_are_checked(engine):
    with pytest.raises(Exception, match="TENANT=NUMBER"):
        engine.apply_settings(tenant_weights="a=-1")
    engine.apply_settings(tenant_weights="a=3,b=1")
    asyncio.run(engine.agenerate(GenerateRequest((1, 2, 3), LONG, tenant="a")))
    share = next(s for s in engine.stats().tenants if s.tenant == "a")
    assert share.weight == 3 and share.service == pytest.approx(3 + 2 * 200)


def test_a_quantum_or_weights_that_change_live_forget_nothing(engine):
    engine.apply_settings(policy="dlpm", predict="none")
    sampling = SamplingParams(max_new_tokens=20, temperature=0, ignore_eos=True)

    async def serve():
        ones = [GenerateRequest((1, i, 3), sampling, tenant="b") for i in range(4)]
        tasks = [asyncio.ensure_future(engine.agenerate(one)) for one in ones]
        await asyncio.sleep(0.01)
        engine.apply_settings(quantum=2048)
        engine.apply_settings(tenant_weights="b=2")
        await asyncio.gather(*tasks)

    asyncio.run(serve())
    share = next(s for s in engine.stats().tenants if s.tenant == "b")
    assert share.weight == 2 and share.running == share.waiting == 0
    before = share.service
    asyncio.run(engine.agenerate(GenerateRequest((1, 9, 3), sampling, tenant="b")))
    again = next(s for s in engine.stats().tenants if s.tenant == "b")
    assert before == pytest.approx(4 * (3 + 2 * 20))
    assert again.service - before == pytest.approx(3 + 2 * 20)


def test_who_runs_when_the_policy_changes_keeps_its_place_in_the_accounts(engine):
    engine.apply_settings(policy="fcfs", tenant_weights="")

    async def serve():
        ones = [GenerateRequest((1, i, 3), LONG, tenant="c") for i in range(3)]
        tasks = [asyncio.ensure_future(engine.agenerate(one)) for one in ones]
        while engine.stats().running < 2:
            await asyncio.sleep(0.001)
        engine.apply_settings(policy="dlpm")
        found = next(s for s in engine.stats().tenants if s.tenant == "c")
        await asyncio.gather(*tasks)
        return found

    share = asyncio.run(serve())
    assert share.running + share.waiting == 3 and share.running >= 1
    assert next(s for s in engine.stats().tenants if s.tenant == "c").running == 0
