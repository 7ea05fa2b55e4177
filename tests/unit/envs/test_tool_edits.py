"""What an edit makes of a text, against plain definitions, and what is told when it cannot be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.envs.tools.edits import around, inserted, replaced
from evolute.envs.tools.shown import cut, numbered
from evolute.types import ToolError

LINES = st.lists(st.sampled_from(["a", "b", "  a", "def f():", "", "x = 1"]), max_size=8)


@given(LINES, st.text(alphabet="ab x=1\n", min_size=1, max_size=6), st.text(max_size=4))
def test_a_text_is_replaced_exactly_when_it_stands_there_once(lines, old, new):
    whole = "\n".join(lines)
    count = sum(whole.startswith(old, k) for k in range(len(whole)))
    if count == 1 and old != new:
        after, line = replaced(whole, old, new, "f")
        assert after == whole.replace(old, new, 1)
        assert line == whole[: whole.index(old)].count("\n") + 1
    else:
        with pytest.raises(ToolError):
            replaced(whole, old, new, "f")


def test_all_places_are_told():
    with pytest.raises(ToolError, match="stands 3 times in f, at lines 1, 3, 4"):
        replaced("a\nb\na\na\n", "a", "c", "f")


def test_overlapping_places_count():
    with pytest.raises(ToolError, match="stands 2 times"):
        replaced("aaa", "aa", "b", "f")


def test_similar_lines_are_shown_best_first():
    text = "def area(width):\n    return width * 2\n\ndef other():\n    pass\n"
    with pytest.raises(ToolError) as raised:
        replaced(text, "def area(widht):", "x", "f")
    assert "1\tdef area(width):" in str(raised.value) and "pass" not in str(raised.value)


def test_a_difference_of_white_space_is_told_as_that():
    with pytest.raises(ToolError, match=r"first line stands at line 2, but white space"):
        replaced("def f():\n    return 1\n", "  return 1", "x", "f") if False else replaced(
            "def f():\n\treturn 1\n", "    return 1", "x", "f"
        )


def test_nothing_alike_is_told_too():
    with pytest.raises(ToolError, match="No line is like it"):
        replaced("a\nb\n", "zzzzzzzz", "x", "f")


@pytest.mark.parametrize(("old", "new"), [("", "x"), ("a", "a")])
def test_an_edit_that_means_nothing_is_refused(old, new):
    with pytest.raises(ToolError):
        replaced("a\n", old, new, "f")


def test_line_ends_of_windows_are_kept():
    after, line = replaced("a\r\nb\r\nc\r\n", "a\nb", "x\ny", "f")
    assert (after, line) == ("x\r\ny\r\nc\r\n", 1)
    assert inserted("a\r\nb\r\n", 1, "n", "f") == ("a\r\nn\r\nb\r\n", 2)


@given(LINES.filter(bool), st.integers(-2, 12), st.sampled_from(["n", "n\nm", "n\n", ""]))
def test_lines_are_inserted_behind_a_line(lines, place, new):
    whole = "\n".join(lines) + "\n"
    if not 0 <= place <= len(lines):
        with pytest.raises(ToolError, match=f"has {len(lines)} lines"):
            inserted(whole, place, new, "f")
        return
    after, first = inserted(whole, place, new, "f")
    expected = [*lines[:place], *(new.splitlines() or [""]), *lines[place:]]
    assert after == "\n".join(expected) + "\n" and first == place + 1


def test_a_last_line_without_an_end_gets_one():
    assert inserted("a", 1, "b", "f") == ("a\nb\n", 2)
    assert inserted("", 0, "b", "f") == ("b\n", 1)


def test_an_edit_is_shown_with_its_surroundings():
    text = "\n".join(str(k) for k in range(1, 21))
    assert around(text, 10, 1) == numbered([str(k) for k in range(6, 15)], 6)


@given(st.text(max_size=300), st.integers(10, 100))
def test_a_cut_text_keeps_both_ends(text, most):
    shown = cut(text, most)
    if len(text) <= most:
        assert shown == text
    else:
        tail = most // 3
        assert shown.startswith(text[: most - tail]) and shown.endswith(text[-tail:])
        assert f"{len(text) - most} characters left out" in shown
