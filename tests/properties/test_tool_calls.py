"""However an answer is cut into pieces, the same calls and the same text are read from it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evolute.lang.tools import Choice, Collected, Event, Tool, ToolFormat, Toolset, collect, parser
from evolute.lang.tools.events import merged

NAMES = ("get_weather", "f", "naïve")
TOOLS = tuple(Tool(name) for name in NAMES)

texts = st.text(alphabet=st.sampled_from('ab {}[]",:\\<>/|_\n\tü世🎉'), max_size=20)
values: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(texts, values, max_size=3)
indents = st.sampled_from([None, 1])


@st.composite
def calls(draw: st.DrawFn) -> str:
    """One call as models write it: order, names of the fields and quoting vary."""
    arguments: object = draw(objects)
    if draw(st.booleans()) and draw(st.booleans()):
        arguments = json.dumps(arguments)
    name = draw(st.sampled_from([*NAMES, "unknown"]))
    fields = [("name", name), (draw(st.sampled_from(["arguments", "parameters"])), arguments)]
    if draw(st.booleans()):
        fields.append(("id", draw(values)))
    shuffled = dict(draw(st.permutations(fields)))
    return json.dumps(shuffled, indent=draw(indents), ensure_ascii=draw(st.booleans()))


fragments = st.one_of(
    texts,
    calls(),
    calls().map(lambda call: f"<tool_call>\n{call}\n</tool_call>"),
    calls().map(lambda call: f"<tool_call>{call}"),
    st.lists(calls(), max_size=3).map(lambda c: "[" + ", ".join(c) + "]"),
    st.sampled_from(
        [
            "<tool_call>",
            "</tool_call>",
            "<tool_",
            "functools",
            "<|python_tag|>",
            "[TOOL_",
            "[TOOL_CALLS]",
        ]
    ),
)


@st.composite
def answers(draw: st.DrawFn) -> str:
    """Well-formed or not, and often cut off in the middle."""
    answer = "".join(draw(st.lists(fragments, max_size=4)))
    return answer[: draw(st.integers(0, len(answer)))] if draw(st.booleans()) else answer


@st.composite
def cuts(draw: st.DrawFn) -> tuple[str, list[str]]:
    answer = draw(answers())
    places = sorted(draw(st.sets(st.integers(0, len(answer)), max_size=12)))
    ends = [0, *places, len(answer)]
    return answer, [answer[a:b] for a, b in itertools.pairwise(ends)]


def read(pieces: list[str], choice: Choice, form: ToolFormat, parallel: bool) -> list[Event]:
    named = "f" if choice is Choice.NAMED else ""
    reader = parser(Toolset(TOOLS, choice, named, parallel), form)
    events = [event for piece in pieces for event in reader.push(piece)]
    return merged([*events, *reader.finish()])


@given(
    cuts(),
    st.sampled_from([Choice.AUTO, Choice.REQUIRED, Choice.NAMED, Choice.NONE]),
    st.sampled_from(list(ToolFormat)),
    st.booleans(),
)
def test_any_chunking_reads_as_one(
    cut: tuple[str, list[str]], choice: Choice, form: ToolFormat, parallel: bool
) -> None:
    answer, pieces = cut
    whole = read([answer], choice, form, parallel)
    assert read(pieces, choice, form, parallel) == whole
    assert read(list(answer), choice, form, parallel) == whole


@given(st.lists(st.tuples(st.sampled_from(NAMES), objects), min_size=1, max_size=4), texts)
@example([("f", {"a": "</tool_call>{"}), ("f", {})], "say <tool_call> no")
def test_calls_come_back_as_written(
    written: list[tuple[str, dict[str, object]]], text: str
) -> None:
    each = [json.dumps({"name": name, "arguments": given}) for name, given in written]
    tagged = "".join(f"\n<tool_call>\n{call}\n</tool_call>" for call in each)
    for answer, form in (
        (tagged, ToolFormat.HERMES),
        ("[" + ",".join(each) + "]", ToolFormat.JSON),
        ("functools[" + ", ".join(each) + "]", ToolFormat.JSON),
        ("<|python_tag|>" + "; ".join(each), ToolFormat.JSON),
        ("[TOOL_CALLS] [" + ", ".join(each) + "]", ToolFormat.JSON),
    ):
        found = collect(read([answer], Choice.AUTO, form, True))
        assert [(c.name, json.loads(c.arguments)) for c in found.calls] == written
        assert found.text == ""
        single = collect(read([answer], Choice.AUTO, form, False))
        assert single == Collected("", found.calls[:1])


@given(texts.filter(lambda text: "<tool_call>" not in text))
def test_an_answer_without_calls_is_text_to_the_letter(text: str) -> None:
    for form in ToolFormat:
        assert collect(read([text], Choice.AUTO, form, True)) == Collected(text, ())


@given(answers())
def test_nothing_is_invented(answer: str) -> None:
    """Text that is shown is a part of the answer, character by character in order."""
    for form in ToolFormat:
        rest = iter(answer)
        shown = collect(read([answer], Choice.AUTO, form, True)).text
        assert all(char in rest for char in shown)


Case = tuple[str, str, list[tuple[str, str]]]
HERMES: list[Case] = [
    ('I look.\n<tool_call>{"name": "f"}</tool_call>', "I look.", [("f", "{}")]),
    ('<tool_call>{"name":"f","arguments":{"a":[1,', "", [("f", '{"a":[1,')]),
    ('<tool_call>{"name":"f","arg', "", [("f", "")]),
    ('<tool_call>{"arguments":{"a":1},"na', '<tool_call>{"arguments":{"a":1},"na', []),
    ('<tool_call>{"arguments":{"a":1},"name":"f"}', "", [("f", '{"a":1}')]),
    ('<tool_call>{"name":"nope"}</tool_call>', '<tool_call>{"name":"nope"}</tool_call>', []),
    ("<tool_call>no<tool_call>", "<tool_call>no<tool_call>", []),
    ('<tool_call>x<tool_call>{"name":"f"}</tool_call>', "<tool_call>x", [("f", "{}")]),
    ('<tool_call>{"name":"f"}\n{"name":"f"}</tool_call>', "", [("f", "{}"), ("f", "{}")]),
    ('<tool_call>{"name":"f"}<tool_call>{"name":"f"}', "", [("f", "{}"), ("f", "{}")]),
    ('<tool_call>{"name":"f"}</tool_call> done ', "done", [("f", "{}")]),
    ('<tool_call>{"name":"f","arguments":"{\\"a\\": 1}"}', "", [("f", '{"a": 1}')]),
    ('<tool_call>{"name":"f","arguments":null}', "", [("f", "{}")]),
    ('<tool_call>{"name":"f","arguments":{"a":1}]oops</tool_call>!', "!", [("f", '{"a":1}')]),
    ("a <tool_cal", "a <tool_cal", []),
]
JSON: list[Case] = [
    ('{"name": "f", "parameters": {"a": "}"}}', "", [("f", '{"a": "}"}')]),
    ("Call: {}", "Call: {}", []),
    ("[]", "[]", []),
    ('functools [{"name":"f"}]', "", [("f", "{}")]),
    ("functional", "functional", []),
    ('func{"name":"f"}', 'func{"name":"f"}', []),
    ("[TOOL_CAL", "[TOOL_CAL", []),
    ('[TOOL_CALLS]{"name":"f"}', "", [("f", "{}")]),
    ('[{"name":"nope"}]', '[{"name":"nope"}]', []),
    ('{"name":"f"} and more', "and more", [("f", "{}")]),
    ('[{"name": "ge', '[{"name": "ge', []),
]


@pytest.mark.parametrize(
    ("form", "case"),
    [(ToolFormat.HERMES, case) for case in HERMES] + [(ToolFormat.JSON, case) for case in JSON],
)
def test_what_is_read(form: ToolFormat, case: Case) -> None:
    answer, text, expected = case
    found = collect(read([answer], Choice.AUTO, form, True))
    assert [(call.name, call.arguments) for call in found.calls] == expected
    assert found.text == text


def test_arguments_are_passed_on_as_they_come() -> None:
    reader = parser(Toolset(TOOLS, Choice.AUTO), ToolFormat.HERMES)
    push: Callable[[str], list[Event]] = reader.push
    assert push('<tool_call>{"name": "f", "arg') != []
    assert push('uments": {"a": ') != []
    assert push('"long') != []
