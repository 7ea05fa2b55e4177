"""Python functions as tools: what a model is told, and what its calls run."""

import asyncio
import dataclasses
import json
import time
from typing import Annotated, Any, Literal, Optional

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.grammar import GrammarCompiler
from evolute.lang.tools import ToolFormat, call, read_calls, tool, toolset_of
from evolute.lang.tools.toolset import BadTools
from evolute.testing import ByteTokenizer
from evolute.types import ConfigError, SamplingParams, ToolError


@dataclasses.dataclass
class Place:
    """Where something is."""

    name: str
    coordinates: list[float] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        if not self.name:
            raise ValueError("a place needs a name")


def weather(
    place: Place,
    days: int = 1,
    unit: Literal["celsius", "fahrenheit"] = "celsius",
    note: Optional[str] = None,  # noqa: UP045
    extras: dict[str, float | None] | None = None,
) -> dict[str, Any]:
    """Tell the weather
    of a place.

    Args:
        place: Where.
        days (int): How many days from now,
            at most ten.

    Returns:
        a record: of no interest here
    """
    return {"place": place, "days": days, "unit": unit, "note": note, "extras": extras}


def run(function, arguments, **options):
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return asyncio.run(call(function, text, **options))


def test_a_tool_is_its_signature_and_docstring():
    told = tool(weather)
    function = told["function"]
    assert (told["type"], function["name"]) == ("function", "weather")
    assert function["description"] == "Tell the weather of a place."
    assert function["parameters"] == {
        "type": "object",
        "properties": {
            "place": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "coordinates": {"type": "array", "items": {"type": "number"}},
                },
                "required": ["name"],
                "additionalProperties": False,
                "description": "Where.",
            },
            "days": {"type": "integer", "description": "How many days from now, at most ten."},
            "unit": {"enum": ["celsius", "fahrenheit"]},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "extras": {
                "anyOf": [
                    {
                        "type": "object",
                        "additionalProperties": {"anyOf": [{"type": "number"}, {"type": "null"}]},
                    },
                    {"type": "null"},
                ]
            },
        },
        "required": ["place"],
        "additionalProperties": False,
    }
    jsonschema.Draft202012Validator.check_schema(function["parameters"])
    assert toolset_of([told]).tools[0].name == "weather"


def test_annotated_describes_and_goes_before_the_docstring():
    def f(x: Annotated[int, "how many"], y: Annotated[str, 3] = "") -> None:
        """Do.

        Args:
            x: something else
            y: which
        """

    told = tool(f)["function"]["parameters"]
    assert told["properties"]["x"] == {"type": "integer", "description": "how many"}
    assert told["properties"]["y"] == {"type": "string", "description": "which"}
    assert told["required"] == ["x"]


def test_a_call_gets_values_of_the_declared_types():
    seen = []

    def f(place: Place, days: int, share: float, tags: list[str], deep: dict[str, list[int]]):
        seen.append((place, days, share, tags, deep))

    given = {
        "place": {"name": "Ulm", "coordinates": [48, 9.99]},
        "days": 3.0,
        "share": 1,
        "tags": ["a"],
        "deep": {"x": [1]},
    }
    assert run(f, given) == "null"
    place, days, share, tags, deep = seen[0]
    assert place == Place("Ulm", [48.0, 9.99]) and type(place.coordinates[0]) is float
    assert (days, type(days), share, type(share)) == (3, int, 1.0, float)
    assert (tags, deep) == (["a"], {"x": [1]})


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ('{"place": {"name": "Ulm"}', "which is not JSON"),
        ("[]", "the arguments must be a JSON object"),
        ("{}", "place is missing"),
        ({"plaice": 1}, "there is no parameter 'plaice'; it takes place, days, unit, note, extras"),
        ({"place": "Ulm"}, "place must be an object, not 'Ulm'"),
        ({"place": {}}, "place.name is missing"),
        ({"place": {"name": "Ulm", "land": 1}}, "place has no 'land'; it has name, coordinates"),
        (
            {"place": {"name": "Ulm", "coordinates": [1, "2"]}},
            r"place.coordinates\[1\] must be a number",
        ),
        ({"place": {"name": ""}}, "place cannot be: a place needs a name"),
        ({"place": {"name": "Ulm"}, "days": "3"}, "days must be a whole number, not '3'"),
        ({"place": {"name": "Ulm"}, "days": True}, "days must be a whole number, not True"),
        ({"place": {"name": "Ulm"}, "days": 2.5}, "days must be a whole number, not 2.5"),
        ({"place": {"name": "Ulm"}, "unit": "K"}, "unit must be one of 'celsius', 'fahrenheit'"),
        ({"place": {"name": "Ulm"}, "note": 3}, "note must be a text, not 3 or must be null"),
    ],
    ids=str,
)
def test_what_a_model_gets_wrong_is_told_with_its_words(arguments, what):
    with pytest.raises(ToolError, match=what) as caught:
        run(weather, arguments)
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    assert text in str(caught.value) and "weather" in str(caught.value)


def test_long_words_are_shortened():
    with pytest.raises(ToolError) as caught:
        run(weather, "x" * 10_000)
    assert "(10000 characters)" in str(caught.value) and len(str(caught.value)) < 600


def test_results_are_texts_or_json():
    async def later(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    def text() -> str:
        return "plain ü"

    assert run(later, {"x": 1}) == "2"
    assert run(text, "{}") == "plain ü"
    assert json.loads(run(weather, {"place": {"name": "Ulm"}}))["unit"] == "celsius"

    def place() -> Place:
        return Place("Köln")

    assert run(place, {}) == '{"name": "Köln", "coordinates": []}'


def test_what_fails_or_hangs_is_a_tools_error():
    def fails(x: int) -> None:
        raise KeyError("no such thing")

    with pytest.raises(ToolError, match=r"fails was called with .*KeyError: 'no such thing'"):
        run(fails, {"x": 1})

    async def hangs() -> None:
        await asyncio.sleep(60)

    with pytest.raises(ToolError, match=r"did not end within 0\.01 s"):
        run(hangs, {}, timeout_s=0.01)


def test_plain_functions_do_not_hold_up_the_loop():
    def slow() -> str:
        time.sleep(0.05)
        return "done"

    async def both() -> int:
        waiting, beats = asyncio.create_task(call(slow, "{}")), 0
        while not waiting.done():
            await asyncio.sleep(0)
            beats += 1
        return beats

    assert asyncio.run(both()) > 5


@dataclasses.dataclass
class Tree:
    left: "Tree | None" = None


def _no_type(city, days: int = 1): ...
def _tuple(x: tuple[int, ...]): ...
def _keys(x: dict[int, str]): ...
def _any_number(*cities: str): ...
def _tree(x: Tree): ...
def _unknown(x: "Nowhere"): ...


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (_no_type, "parameter 'city' of tool _no_type has no type"),
        (_tuple, "parameter 'x' of tool _tuple: type tuple is not known"),
        (_keys, "keys that are no texts"),
        (_any_number, "parameter 'cities' of tool _any_number cannot be given by name"),
        (_tree, "Tree holds itself"),
        (_unknown, "a type of tool _unknown cannot be found"),
        (lambda: 1, "a tool needs a name"),
    ],
)
def test_functions_that_cannot_be_tools_are_refused_by_name(function, what):
    with pytest.raises(ConfigError, match=what):
        tool(function)


values = st.fixed_dictionaries(
    {
        "place": st.fixed_dictionaries(
            {"name": st.text(min_size=1, max_size=5)},
            optional={"coordinates": st.lists(st.floats(-9, 9), max_size=2)},
        )
    },
    optional={
        "days": st.integers(-9, 9),
        "unit": st.sampled_from(["celsius", "fahrenheit"]),
        "note": st.none() | st.text(max_size=5),
        "extras": st.none() | st.dictionaries(st.text(max_size=3), st.none() | st.floats(-9, 9)),
    },
)


@given(values)
def test_what_the_schema_allows_the_function_takes(given):
    jsonschema.validate(given, tool(weather)["function"]["parameters"])
    seen = []

    def spying(**values):
        seen.append(values)

    spying.__annotations__ = weather.__annotations__
    spying.__signature__ = __import__("inspect").signature(weather)
    assert run(spying, given) == "null"
    assert dataclasses.asdict(seen[0].pop("place")) == {"coordinates": [], **given.pop("place")}
    assert seen[0] == given


def test_a_tools_schema_is_a_grammar_that_its_own_calls_keep():
    grammar = GrammarCompiler(ByteTokenizer()).compile(
        SamplingParams(json_schema=json.dumps(tool(weather)["function"]["parameters"]))
    )
    for text, is_allowed in (
        ('{"place": {"name": "Ulm"}, "days": 2}', True),
        ('{"place": {"land": "Ulm"}}', False),
    ):
        matcher = grammar.start()
        assert all(matcher.accept(byte) for byte in text.encode()) is is_allowed


def test_an_answer_is_read_with_the_tools_in_their_json_form():
    tools = [tool(weather)]
    answer = 'Let me see.\n<tool_call>\n{"name": "weather", "arguments": {"a": 1}}\n</tool_call>'
    text, (made,) = read_calls(answer, tools, ToolFormat.HERMES)
    assert (text, made.name, made.arguments) == ("Let me see.", "weather", '{"a": 1}')
    _, again = read_calls(answer * 2, tools, ToolFormat.HERMES)
    assert len({made.id, *(one.id for one in again)}) == 3
    assert read_calls(answer, tools, ToolFormat.HERMES, "none") == (answer, ())
    text, (named,) = read_calls('{"a": 1}', tools, ToolFormat.HERMES, "weather")
    assert (text, named.arguments) == ("", '{"a": 1}')
    with pytest.raises(BadTools, match=r"tools\[0\] must be"):
        read_calls(answer, [{"name": "weather"}], ToolFormat.HERMES)
    with pytest.raises(BadTools, match="weahter"):
        toolset_of(tools, "weahter")
