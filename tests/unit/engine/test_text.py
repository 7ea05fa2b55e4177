from hypothesis import given
from hypothesis import strategies as st

from evolute.engine.text import TextStream
from evolute.models.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def stream(text, stop, **options):
    out = TextStream(TOKENIZER, stop, **options)
    pieces = [out.push(byte) for byte in text.encode()]
    return [*pieces, out.finish()], out


@given(st.text(max_size=20), st.lists(st.text("ab\u00e9", min_size=1, max_size=3), max_size=3))
def test_what_is_shown_is_the_text_up_to_the_stop_that_is_complete_first(text, stop):
    pieces, out = stream(text, stop)
    found = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    assert "".join(pieces) == (text[: min(found)[1]] if found else text)
    assert (out.matched_stop is not None) == bool(found)


def test_the_beginning_of_a_stop_string_is_held_back():
    pieces, _ = stream("xEN!", ["END"])
    assert pieces == ["x", "", "", "EN!", ""]


def test_a_character_is_never_split():
    pieces, _ = stream("a\u00e9", [])
    assert pieces == ["a", "", "\u00e9", ""]


def test_include_stop_keeps_it():
    pieces, _ = stream("abSTOPcd", ["STOP"], include_stop=True)
    assert "".join(pieces) == "abSTOP"
