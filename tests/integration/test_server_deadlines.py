"""A first token that cannot come in time: 503 with the numbers, on every path."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from evolute.engine import Engine
from evolute.server import create_app, serve_in_thread
from evolute.server.client import HttpBackend
from evolute.types import DeadlineMissed, GenerateRequest, SamplingParams

LONG = SamplingParams(temperature=0, max_new_tokens=4000, ignore_eos=True)


class Hog:
    """Holds the only place of the engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.ended, began = engine, threading.Event(), threading.Event()

        def listen(delta: Any) -> None:
            (self.ended if delta.output is not None else began).set()

        request = GenerateRequest((1, 2, 3), LONG)
        engine._loop.call(lambda: engine._loop.add(request, None, listen))
        assert began.wait(20)

    def __enter__(self) -> Hog:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.abort_all()
        assert self.ended.wait(20)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Engine, str]]:
    with (
        Engine("tiny", max_running=1, num_threads=1) as engine,
        serve_in_thread(create_app(engine, served_names=["tiny"])) as server,
    ):
        yield engine, server.url


TURN = [{"role": "user", "content": "hi"}]
BODIES = {
    "/generate": {"text": "hi"},
    "/v1/completions": {"prompt": "hi"},
    "/v1/chat/completions": {"messages": TURN},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": TURN, "max_tokens": 4},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", BODIES)
def test_too_late_is_503_with_the_numbers(
    served: tuple[Engine, str], path: str, stream: bool
) -> None:
    engine, url = served
    body = {**BODIES[path], "stream": stream, "deadline_s": 0.1}
    with Hog(engine):
        answer = httpx.post(url + path, json=body, timeout=30)
    assert answer.status_code == 503
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    error = answer.json()["error"]
    assert "within 0.1 s" in error["message"]
    if path != "/v1/messages":
        assert error["code"] == "deadline_missed"
    engine.check()


@pytest.mark.parametrize("path", BODIES)
def test_in_time_is_as_without_and_nonsense_is_400(served: tuple[Engine, str], path: str) -> None:
    _, url = served
    for value, status in ((60, 200), (0, 200), (None, 200), (-1, 400), ("1", 400), (1e9, 400)):
        answer = httpx.post(url + path, json={**BODIES[path], "deadline_s": value}, timeout=30)
        assert answer.status_code == status, answer.text
        if status == 400:
            assert "deadline_s" in answer.text


def test_the_clients_send_it_and_tell_of_it(served: tuple[Engine, str]) -> None:
    engine, url = served
    ours = {"deadline_s": 0.1}
    with Hog(engine), openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            client.completions.create(model="tiny", prompt="hi", extra_body=ours)
        assert caught.value.code == "deadline_missed"
    with Hog(engine), anthropic.Anthropic(base_url=url, api_key="k", max_retries=0) as other:
        with pytest.raises(anthropic.APIStatusError) as refused:
            other.messages.create(
                model="tiny",
                max_tokens=4,
                messages=[{"role": "user", "content": "hi"}],
                extra_body=ours,
            )
        assert refused.value.status_code == 503


def test_our_own_client_does_not_try_again_what_missed_its_deadline(
    served: tuple[Engine, str],
) -> None:
    engine, url = served

    async def ask() -> None:
        async with HttpBackend(url, "tiny", engine.tokenizer) as backend:
            request = GenerateRequest((1, 2), SamplingParams(max_new_tokens=2), deadline_s=0.1)
            with pytest.raises(DeadlineMissed, match=r"within 0\.1 s"):
                await backend.agenerate(request)
            assert backend.num_retries == 0

    with Hog(engine):
        asyncio.run(ask())
