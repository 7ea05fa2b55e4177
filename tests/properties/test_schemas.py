"""Whatever schema binds an answer, the answer validates: generated schemas, three samples of each.

The model is `tiny`, whose words mean nothing: it is the grammar alone that keeps the form. Forced
tokens are computed together (jump-forward), so that is held to the schema, too.
"""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest

from evolute.engine import Engine
from evolute.types import FinishReason, SamplingParams

SAMPLES, MOST = 3, 2500
NAMES = ["a", "name", "x y", "ü", "is_ok", 'q"uote', "back\\slash", "日本"]
FORMATS = ["date", "time", "uuid", "ipv4", "date-time"]


def leaf(dice: random.Random) -> dict[str, Any]:
    low = dice.randrange(-50, 50)
    return dice.choice(
        [
            {"type": "boolean"},
            {"type": "null"},
            {"type": "integer"},
            {"type": "number"},
            {"type": "integer", "minimum": low, "maximum": low + dice.randrange(90)},
            {"type": "number", "minimum": low, "exclusiveMaximum": low + 1 + dice.randrange(9)},
            {"type": "string", "maxLength": dice.randrange(12)},
            {"type": "string", "minLength": 2, "maxLength": 2 + dice.randrange(6)},
            {"type": "string", "pattern": "^[a-c]{2,4}(x|yz)?$"},
            {"type": "string", "format": dice.choice(FORMATS)},
            {"enum": dice.sample(["red", "green", "réd", 3, None, True, [1, {"k": "v"}]], 3)},
            {"const": dice.choice(["aéb", 12, {"deep": [None, "x"]}, "", "🎉"])},
            {"type": ["integer", "null"], "minimum": 0, "maximum": 9},
            {"$ref": "#/$defs/shared"},
        ]
    )


def inner(dice: random.Random, depth: int) -> dict[str, Any]:
    kind = "leaf" if depth == 0 else dice.choice(["leaf", "array", "tuple", "object", "any"])
    if kind == "leaf":
        return leaf(dice)
    if kind == "array":
        items = inner(dice, depth - 1)
        low = dice.randrange(3)
        return {"type": "array", "items": items, "minItems": low, "maxItems": low + 2}
    if kind == "tuple":
        first = [inner(dice, depth - 1) for _ in range(2)]
        return {"type": "array", "prefixItems": first, "items": False, "minItems": 2}
    if kind == "any":
        return {"anyOf": [inner(dice, depth - 1) for _ in range(2)]}
    return obj(dice, depth)


def obj(dice: random.Random, depth: int) -> dict[str, Any]:
    names = dice.sample(NAMES, dice.randrange(4))
    found: dict[str, Any] = {
        "type": "object",
        "properties": {name: inner(dice, depth - 1) for name in names},
        "required": [name for name in names if dice.random() < 0.6],
    }
    found["additionalProperties"] = False
    return found


def schema(seed: int) -> dict[str, Any]:
    dice = random.Random(seed)
    found = inner(dice, 3)
    found = found if "$ref" not in found else {"anyOf": [found]}
    shared = {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}
    found["$defs"] = {"shared": {**shared, "additionalProperties": False}}
    if seed % 3 == 0:
        found["x-guidance"] = {"whitespace_flexible": False}
    return found


@pytest.mark.parametrize(
    "seeds",
    [
        range(100),
        pytest.param(range(100, 1_000), marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
    ids=str,
)
def test_every_sample_validates(seeds: range) -> None:
    num_whole = 0
    with Engine("tiny", num_threads=1) as engine:
        for seed in seeds:
            found = schema(seed)
            asked = SamplingParams(
                json_schema=json.dumps(found), n=SAMPLES, seed=seed, max_new_tokens=MOST
            )
            for output in engine.generate(f"{seed}: ", asked):
                assert output.finish_reason is FinishReason.STOP, (found, output)
                jsonschema.validate(json.loads(output.text), found)
                num_whole += 1
        counts = engine.stats().counts
        engine.check()
    assert num_whole == SAMPLES * len(seeds)
    assert counts.jumped_tokens > 0
