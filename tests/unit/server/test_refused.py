"""Paths of other servers say why there is nothing to be had, and the document is silent of them."""

import asyncio

import httpx
import pytest

from evolute.server import create_app
from evolute.server.openapi import document
from evolute.server.refused import REFUSED
from evolute.testing import ScriptedBackend

APP = create_app(ScriptedBackend(), served_names=["base"])


def ask(method, path):
    async def run():
        transport = httpx.ASGITransport(APP)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path)

    return asyncio.run(run())


@pytest.mark.parametrize("path", REFUSED)
def test_each_is_refused_with_its_reason_and_not_to_be_tried_again(path):
    for method in ("GET", "POST"):
        answer = ask(method, path.replace("{rest:path}", "speech"))
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (501, "not_supported")
        assert answer.headers["x-should-retry"] == "false"
        assert error["message"].endswith(f"{REFUSED[path]}.")


def test_the_document_is_silent_of_them():
    told = document(APP)["paths"]
    assert not told.keys() & {path.replace(":path", "") for path in REFUSED}
    assert "/v1/chat/completions" in told


def test_an_unknown_path_is_404():
    assert ask("GET", "/v1/nothing").status_code == 404


@pytest.mark.parametrize("path", ["/health", "/health_generate", "/ready", "/ping"])
def test_health_by_its_names(path):
    assert ask("GET", path).json() == {"status": "ok"}


def test_messages_and_tools_are_described_to_their_parts():
    told = document(APP)["paths"]["/v1/chat/completions"]["post"]["requestBody"]
    fields = told["content"]["application/json"]["schema"]["properties"]
    roles = [one["properties"]["role"]["enum"] for one in fields["messages"]["items"]["anyOf"]]
    assert roles == [["system", "developer", "user"], ["assistant"], ["tool"]]
    (tool, _) = fields["tools"]["anyOf"]
    assert tool["items"]["required"] == ["type", "function"]
