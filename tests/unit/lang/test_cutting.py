"""Which tokens an answer's text is made of."""

import pytest

from evolute.lang.cutting import MAX_CUT, text_prefix
from evolute.types import FinishReason, Output

WORDS = {1: "he", 2: "llo", 3: " wor", 4: "ld.\nNext", 5: "</s>", 6: "\n", 7: "\n"}


def decode(token_ids):
    return "".join(WORDS[id] for id in token_ids)


def output(text, ids, reason=FinishReason.STOP, matched=None):
    return Output(text, tuple(ids), (0.0,) * len(ids), reason, 0, 0, matched_stop=matched)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (output("hello", [1, 2], FinishReason.LENGTH), (2, 5)),
        (output("hello", [1, 2, 5], matched=5), (2, 5)),
        (output("hello", [1, 2]), (2, 5)),  # a grammar's end
        (output("hello", [1, 2, 6], matched="\n"), (2, 5)),
        (output("hello", [1, 2, 6, 7], matched="\n\n"), (2, 5)),
        (output("hello world.", [1, 2, 3, 4], matched="\n"), (3, 9)),  # it begins within a token
        (output("ld.", [4], matched="\n"), (0, 0)),
        (output("", [5], matched=5), (0, 0)),
        (output("h", [1, 2], matched="ello"), (0, 0)),
    ],
)
def test_what_ends_an_answer_is_no_part_of_it(made, expected):
    assert text_prefix(made, decode) == expected


def test_a_stop_that_is_too_long_to_be_looked_for_gives_no_token():
    ids = [1] + [6] * (MAX_CUT + 5)
    assert text_prefix(output("he", ids, matched="\n" * (MAX_CUT + 5)), decode) == (0, 0)
    ids = [1] + [6] * (MAX_CUT - 1)
    assert text_prefix(output("he", ids, matched="\n" * (MAX_CUT - 1)), decode) == (1, 2)
