"""Grammars of calls, and what counts as a JSON schema."""

from __future__ import annotations

from typing import Any

import pytest

from evolute.grammar import GrammarCompiler
from evolute.server.errors import FieldError
from evolute.server.tools import Choice, Tool, ToolFormat, Toolset, constraint
from evolute.server.tools.schema import complaint
from evolute.testing import ByteTokenizer
from evolute.types import SamplingParams

TREE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"$ref": "#/$defs/Kind"},
        "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
    },
    "required": ["kind"],
    "additionalProperties": False,
    "$defs": {"Kind": {"enum": ["a", "b"]}},
}
COMPILER = GrammarCompiler(ByteTokenizer())


def accepts(toolset: Toolset, text: str) -> bool:
    """The grammar lets `text` through, and lets it end there."""
    grammar = COMPILER.compile(SamplingParams(**constraint(toolset, ToolFormat.HERMES)))  # type: ignore[arg-type]
    assert grammar is not None
    matcher = grammar.start()
    return all(matcher.accept(byte) for byte in text.encode()) and matcher.is_accepting


@pytest.mark.parametrize(
    ("text", "is_valid"),
    [
        ('[{"name": "t", "parameters": {"kind": "a"}}]', True),
        ('[{"name": "t", "parameters": {"kind": "b", "next": {"kind": "a"}}}]', True),
        ('[{"name":"u","parameters":{}}, {"name":"t","parameters":{"kind":"a"}}]', True),
        ('[{"name": "t", "parameters": {"kind": "c"}}]', False),
        ('[{"name": "t", "parameters": {"kind": "b", "next": {"kind": "c"}}}]', False),
        ('[{"name": "v", "parameters": {}}]', False),
        ("[]", False),
        ('[{"name":"u"}]', False),
    ],
)
def test_required_calls_keep_each_tools_schema(text: str, is_valid: bool) -> None:
    toolset = Toolset.of([Tool("t", parameters=TREE), Tool("u")], Choice.REQUIRED)
    assert accepts(toolset, text) is is_valid


def test_one_call_when_calls_may_not_be_parallel() -> None:
    toolset = Toolset.of([Tool("u")], Choice.REQUIRED, parallel=False)
    one = '{"name": "u", "parameters": {}}'
    assert accepts(toolset, f"[{one}]")
    assert not accepts(toolset, f"[{one}, {one}]")


@pytest.mark.parametrize(
    ("text", "is_valid"),
    [
        ("just text, {even} <this>", True),
        ('so\n<tool_call>\n{"name": "t", "arguments": {"kind": "a"}}\n</tool_call> done', True),
        ('<tool_call>\n{"name": "u", "arguments": {"x": [1]}}\n</tool_call>', True),
        ('<tool_call>\n{"name": "t", "arguments": {"kind": "c"}}\n</tool_call>', False),
        ('<tool_call>\n{"name": "w", "arguments": {}}\n</tool_call>', False),
        ("<tool_call>oops", False),
    ],
)
def test_a_strict_tool_keeps_its_schema_when_called_freely(text: str, is_valid: bool) -> None:
    toolset = Toolset.of([Tool("t", parameters=TREE, strict=True), Tool("u")], Choice.AUTO)
    assert accepts(toolset, text) is is_valid


def test_free_calls_have_no_grammar() -> None:
    assert constraint(Toolset.of([Tool("t")]), ToolFormat.HERMES) == {}
    strict = Toolset.of([Tool("t", strict=True)])
    with pytest.raises(FieldError, match="choose required"):
        constraint(strict, ToolFormat.JSON)


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        (TREE, None),
        (True, None),
        ({"x-unknown": 1, "type": ["object", "null"]}, None),
        ({"type": "float"}, "type is 'float'"),
        ({"properties": {"a": {"items": {"type": 3}}}}, "properties.a.items.type is 3"),
        ({"properties": []}, "properties must be an object"),
        ({"required": [1]}, "list of names"),
        ({"enum": []}, "at least one"),
        ({"anyOf": {}}, "anyOf must be a list"),
        ({"$ref": 1}, "$ref must be a text"),
        ({"properties": {"a": 1}}, "properties.a. must be an object, not 1"),
        ([], "must be an object"),
    ],
)
def test_what_is_no_schema_is_told_where(schema: Any, problem: str | None) -> None:
    found = complaint(schema)
    assert found is None if problem is None else found is not None and problem in found


def test_a_schema_without_end_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100):
        deep = {"properties": {"a": deep}}
    assert "nested deeper" in (complaint(deep) or "")
