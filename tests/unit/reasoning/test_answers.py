"""Which part of a text is the answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.reasoning.answers import code_of, final_answer, marked_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so \\boxed{3} or rather \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{7} and then \\boxed{un", "7"),
        ("Step 1.\nAnswer: 42.", "42"),
        ("The final answer is **12 apples**.", "12 apples"),
        ("Answer: 3\nAnswer: 4", "4"),
        ("**Answer:** pear", "pear"),
        ("We get 1,234 + 1 = 1,235 in all", "1235"),
        ("it is -3.5 degrees", "-3.5"),
        ("apple, pear\nbanana split.", "banana split"),
        ("", ""),
        ("Answer:", "Answer:"),
    ],
)
def test_the_last_mark_number_or_line(text, answer):
    assert final_answer(text) == answer


def test_only_marks_are_marked():
    assert marked_answer("The sum is 5") is None


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Here:\n```python\nprint(1)\n```\nand\n```\nprint(2)\n```", "print(2)"),
        ("```py\nx = 1\nprint(x)", "x = 1\nprint(x)"),
        ("print(3)", "print(3)"),
        ("42", None),
        ("apple", None),
        ("The answer is 4.", None),
        ("", None),
    ],
)
def test_the_last_program(text, code):
    assert code_of(text) == code


@given(st.text(max_size=200))
def test_any_text_has_an_answer_without_an_error(text):
    assert isinstance(final_answer(text), str)
    code_of(text)


@given(st.integers(-(10**9), 10**9))
def test_a_number_is_found_behind_any_words(value):
    assert final_answer(f"Then we have {value} of them.") == str(value)
