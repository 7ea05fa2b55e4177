"""A grammar that cannot be is a 400 that says why, within seconds, and the next one is served."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from evolute.engine import Engine
from evolute.server import create_app, serve_in_thread
from evolute.types import SamplingParams

PATIENCE_S = 60  # a compilation has ten seconds; a machine may be busy
UNSATISFIABLE: dict[str, dict[str, Any]] = {
    "no value": {"enum": []},
    "crossed bounds": {"type": "integer", "minimum": 5, "maximum": 3},
    "crossed lengths": {"type": "string", "minLength": 5, "maxLength": 3},
    "crossed items": {"type": "array", "minItems": 3, "maxItems": 1, "items": {"type": "null"}},
    "two types at once": {"allOf": [{"type": "string"}, {"type": "integer"}]},
    "required and barred": {
        "type": "object",
        "properties": {"a": False},
        "required": ["a"],
    },
    "nothing": {"not": {}},
    "without end": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
}
BROKEN: dict[str, dict[str, Any]] = {
    "regex: open bracket": {"regex": "(a"},
    "regex: open class": {"regex": "[a"},
    "regex: nothing to repeat": {"regex": "*a"},
    "regex: look-ahead": {"regex": "(?=a)b"},
    "regex: back reference": {"regex": r"(a)\1"},
    "schema: no JSON": {"json_schema": "{"},
    "schema: unknown type": {"json_schema": json.dumps({"type": "text"})},
    "schema: lost reference": {"json_schema": json.dumps({"$ref": "#/$defs/gone"})},
    "ebnf: no root": {"ebnf": 'start ::= "a"'},
    "ebnf: lost rule": {"ebnf": "root ::= gone"},
    "two grammars": {"regex": "a", "ebnf": 'root ::= "a"'},
}
DEEPER = {
    "$ref": "#/$defs/a",
    "$defs": {
        "a": {
            "type": "object",
            "properties": {"next": {"$ref": "#/$defs/a"}},
            "required": ["next"],
            "additionalProperties": False,
        }
    },
}
BLOW_UPS: dict[str, dict[str, Any]] = {
    "always deeper": {"json_schema": json.dumps(DEEPER)},
    "powers of powers": {"regex": "((((a{1,99}){1,99}){1,99}){1,99}){1,99}"},
    "optional, often": {"regex": "(a?){4000}a{4000}"},
    "wide classes, often": {"regex": r"(\w{1,300}\W{1,300}){1,300}"},
    "alternatives": {"regex": "|".join(f"(x{i}|y{i}){{0,50}}" for i in range(2_000))},
    "a set of subsets": {"regex": "(a|b)*a(a|b){500}"},
    "many properties": {
        "json_schema": json.dumps(
            {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(3_000)}}
        )
    },
}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine("tiny", num_threads=1) as engine:
        yield engine


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[httpx.Client]:
    server = serve_in_thread(create_app(engine, served_names=["tiny"]))
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S, trust_env=False) as client:
        yield client
    server.stop()


def ask(client: httpx.Client, grammar: dict[str, Any]) -> httpx.Response:
    body = {"model": "tiny", "prompt": "x", "max_tokens": 8, "temperature": 0, **grammar}
    return client.post("/v1/completions", json=body)


def assert_lives(client: httpx.Client, engine: Engine) -> None:
    answer = ask(client, {"regex": "yes|no"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["text"] in ("yes", "no")
    assert client.get("/health").status_code == 200
    engine.check()


def assert_refused(answer: httpx.Response) -> None:
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error" and len(error["message"]) > 10


@pytest.mark.parametrize("name", UNSATISFIABLE)
def test_a_schema_that_nothing_satisfies_is_refused(
    client: httpx.Client, engine: Engine, name: str
) -> None:
    assert_refused(ask(client, {"json_schema": json.dumps(UNSATISFIABLE[name])}))
    assert_lives(client, engine)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_grammar_is_refused(client: httpx.Client, engine: Engine, name: str) -> None:
    assert_refused(ask(client, BROKEN[name]))
    assert_lives(client, engine)


@pytest.mark.parametrize("name", BLOW_UPS)
def test_what_grows_without_bound_is_refused_or_answered(
    client: httpx.Client, engine: Engine, name: str
) -> None:
    began = time.monotonic()
    answer = ask(client, BLOW_UPS[name])
    if answer.status_code == 400:  # at once, or found to be too large while it was written
        assert_refused(answer)
    else:
        assert answer.json()["choices"][0]["finish_reason"] in ("stop", "length", "error")
    assert time.monotonic() - began < PATIENCE_S
    assert_lives(client, engine)


def test_bad_ones_among_good_ones_in_flight_hurt_only_themselves(
    client: httpx.Client, engine: Engine
) -> None:
    async def everything() -> list[int]:
        async with httpx.AsyncClient(base_url=client.base_url, timeout=PATIENCE_S) as several:
            asked = [
                {"regex": "[a-z]{3,8}"} if i % 2 else list(BROKEN.values())[i % len(BROKEN)]
                for i in range(30)
            ]
            bodies = [{"model": "tiny", "prompt": "x", "max_tokens": 8, **one} for one in asked]
            sent = [several.post("/v1/completions", json=body) for body in bodies]
            return [answer.status_code for answer in await asyncio.gather(*sent)]

    assert asyncio.run(everything()) == [200 if i % 2 else 400 for i in range(30)]
    assert_lives(client, engine)


def test_a_tool_with_a_schema_that_cannot_be_is_refused(
    client: httpx.Client, engine: Engine
) -> None:
    function = {
        "name": "f",
        "parameters": UNSATISFIABLE["required and barred"] | {"type": "object"},
    }
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "x"}],
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "required",
        "max_tokens": 8,
    }
    assert_refused(client.post("/v1/chat/completions", json=body))
    assert_lives(client, engine)


def test_the_engine_refuses_before_it_takes_a_place(engine: Engine) -> None:
    before = engine.stats().counts.requests
    for grammar in ({"json_schema": json.dumps(UNSATISFIABLE["no value"])}, {"regex": "(a"}):
        with pytest.raises(ValueError, match=r"cannot be compiled|no text"):
            engine.generate("x", SamplingParams(**grammar))
    assert engine.stats().counts.requests == before
