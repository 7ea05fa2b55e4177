from hypothesis import given
from hypothesis import strategies as st

from evolute.engine.text import TextStream, TokenTexts
from evolute.models.tiny import tiny_tokenizer

TEXTS = TokenTexts(tiny_tokenizer())


def stream(text, stop, **options):
    out = TextStream(TEXTS, stop, **options)
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


def test_a_control_token_is_left_out_unless_it_is_wanted():
    for skip, shown in ((True, "ab"), (False, "a<|im_end|>b")):
        out = TextStream(TEXTS, skip_special_tokens=skip)
        assert "".join(out.push(token) for token in (97, 258, 98)) == shown


def test_each_token_is_decoded_once_however_long_the_output():
    asked = []

    class Counting:
        def token_bytes(self, token_id):
            asked.append(token_id)
            return bytes([token_id])

        def decode(self, token_ids):
            return "x"

    texts = TokenTexts(Counting())
    out = TextStream(texts, ["zz"])
    for i in range(3000):
        out.push(97 + i % 5)
    assert len(asked) == 5
