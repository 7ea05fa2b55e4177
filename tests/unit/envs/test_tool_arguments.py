"""What a model passes to a tool: checked, converted, and told in words when it is wrong."""

import pytest

from evolute.envs.tools.arguments import (
    function_schema,
    read_arguments,
    text,
    text_list,
    whole,
    whole_list,
)
from evolute.types import ToolError

SCHEMA = function_schema(
    "look",
    "Look.",
    {
        "path": text("where"),
        "how": text("which way", "up", "down"),
        "line": whole("a line"),
        "lines": whole_list("lines"),
        "terms": text_list("words"),
    },
    ["path"],
)


def test_the_schema_is_a_function_of_the_openai_form():
    assert SCHEMA["type"] == "function"
    parameters = SCHEMA["function"]["parameters"]
    assert parameters["required"] == ["path"] and parameters["additionalProperties"] is False
    assert parameters["properties"]["how"]["enum"] == ["up", "down"]
    assert parameters["properties"]["lines"]["items"] == {"type": "integer"}


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"path": "a", "line": "12"}, {"path": "a", "line": 12}),
        ({"path": "a", "line": 3.0}, {"path": "a", "line": 3}),
        ({"path": "a", "lines": "[1, 20]"}, {"path": "a", "lines": [1, 20]}),
        ({"path": "a", "lines": 7}, {"path": "a", "lines": [7]}),
        ({"path": "a", "terms": "one two"}, {"path": "a", "terms": ["one two"]}),
        ({"path": "a", "terms": '["one", "two"]'}, {"path": "a", "terms": ["one", "two"]}),
        ({"path": "a", "how": None}, {"path": "a"}),
        ({"path": 12}, {"path": "12"}),
    ],
)
def test_text_stands_for_other_types(given, read):
    assert read_arguments(SCHEMA, given) == read


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "look needs path"),
        ({"path": None}, "look needs path"),
        ({"path": "a", "pth": "b"}, "no parameter 'pth'. Did you mean 'path'?"),
        ({"path": "a", "how": "left"}, "it is one of up, down"),
        ({"path": "a", "line": "twelve"}, "of type integer"),
        ({"path": "a", "line": True}, "of type integer"),
        ({"path": "a", "line": 10**30}, "of type integer"),
        ({"path": "a", "lines": "x"}, "of type array"),
        ({"path": "a", "lines": ["x"]}, "of type integer"),
        ({"path": "\ud800"}, "valid Unicode"),
        (["a"], "takes named parameters"),
    ],
)
def test_what_is_wrong_is_told_with_the_form(given, told):
    with pytest.raises(ToolError) as raised:
        read_arguments(SCHEMA, given)
    assert told in str(raised.value)
