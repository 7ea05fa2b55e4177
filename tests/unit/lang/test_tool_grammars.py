"""Grammars of calls, and what counts as a JSON schema."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import AddedToken

from evolute.grammar import GrammarCompiler
from evolute.lang.tools import BadTools, Choice, Tool, ToolFormat, Toolset, constraint, hides_tags
from evolute.lang.tools.schema import complaint
from evolute.models.tiny import tiny_tokenizer
from evolute.models.tokenizer import ChatTokenizer
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


def accepts(
    toolset: Toolset,
    text: str,
    *,
    form: ToolFormat = ToolFormat.HERMES,
    schema: dict[str, Any] | None = None,
) -> bool:
    """The grammar lets `text` through, and lets it end there."""
    text_of_schema = None if schema is None else json.dumps(schema)
    settings: Any = constraint(toolset, form, schema=text_of_schema)
    grammar = COMPILER.compile(SamplingParams(**settings))
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


FREE = '<tool_call>\n{"name": "u", "arguments": {"x": 1}}\n</tool_call>'
BARE = '{"name": "u", "parameters": {}}'


@pytest.mark.parametrize(
    ("form", "text", "is_valid"),
    [
        (ToolFormat.HERMES, '{"kind": "a"}', True),
        (ToolFormat.HERMES, FREE, True),
        (ToolFormat.HERMES, f"{FREE}\n{FREE}", True),
        (ToolFormat.HERMES, '{"kind": "c"}', False),
        (ToolFormat.HERMES, f"so {FREE}", False),
        (ToolFormat.HERMES, '{"kind": "a"}' + FREE, False),
        (ToolFormat.HERMES, "text", False),
        (ToolFormat.JSON, '{"kind": "a"}', True),
        (ToolFormat.JSON, f"[{BARE}]", True),
        (ToolFormat.JSON, f"[{BARE}] so", False),
    ],
)
def test_an_answer_of_a_schema_or_calls(form: ToolFormat, text: str, is_valid: bool) -> None:
    assert accepts(Toolset.of([Tool("u")]), text, form=form, schema=TREE) is is_valid


def test_one_call_instead_of_an_answer_when_they_may_not_be_parallel() -> None:
    toolset = Toolset.of([Tool("u")], parallel=False)
    assert accepts(toolset, FREE, schema=TREE)
    assert not accepts(toolset, FREE + FREE, schema=TREE)


def test_tags_that_are_control_tokens() -> None:
    """They are hidden in text, and a grammar must name them as tokens."""
    tokenizer = tiny_tokenizer()
    assert not hides_tags(tokenizer, ToolFormat.HERMES)
    tags = [AddedToken("<tool_call>", special=True), AddedToken("</tool_call>", special=True)]
    tokenizer.tokenizers.add_special_tokens(tags)
    tokenizer = ChatTokenizer(tokenizer.tokenizers, eos_token_id=258, template=None)
    assert hides_tags(tokenizer, ToolFormat.HERMES)
    compiler = GrammarCompiler(tokenizer)
    for schema in (None, '{"type": "object"}'):
        toolset = Toolset.of([Tool("t", parameters=TREE, strict=True)])
        settings: Any = constraint(toolset, ToolFormat.HERMES, schema=schema, has_special_tags=True)
        for kind, is_valid in (("a", True), ("c", False)):
            written = json.dumps({"name": "t", "arguments": {"kind": kind}})
            call = f"<tool_call>\n{written}\n</tool_call>"
            grammar = compiler.compile(SamplingParams(**settings))
            assert grammar is not None
            matcher = grammar.start()
            ids = tokenizer.encode(call)
            assert (all(map(matcher.accept, ids)) and matcher.is_accepting) is is_valid


def test_free_calls_have_no_grammar() -> None:
    assert constraint(Toolset.of([Tool("t")]), ToolFormat.HERMES) == {}
    strict = Toolset.of([Tool("t", strict=True)])
    with pytest.raises(BadTools, match="choose required"):
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
