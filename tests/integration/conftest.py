"""Servers that several files of tests put their clients on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from evolute.engine import Engine
from evolute.server import RunningServer, create_app, serve_in_thread
from evolute.types import Backend

Serve = Callable[..., RunningServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """serve(backend, **settings of the app): a server of the name `base` until the test ends."""
    running: list[RunningServer] = []

    def begin(backend: Backend, **settings: Any) -> RunningServer:
        running.append(serve_in_thread(create_app(backend, served_names=["base"], **settings)))
        return running[-1]

    yield begin
    for server in running:
        server.stop()


@pytest.fixture(scope="session")
def tiny_url() -> Iterator[str]:
    """Of a server on the real engine with the model `tiny`."""
    with Engine("tiny") as engine:
        server = serve_in_thread(create_app(engine, served_names=["tiny"]))
        yield server.url
        server.stop()


@pytest.fixture
def tiny(tiny_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{tiny_url}/v1", api_key="k", max_retries=0) as client:
        yield client
