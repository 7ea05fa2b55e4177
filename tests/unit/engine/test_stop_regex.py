"""A stop regex ends the text where a match is complete first, in bounded time."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.engine import Engine
from evolute.engine.stop_regex import MAX_EDGES, compile_regexes
from evolute.engine.text import TextStream, TokenTexts
from evolute.models.tiny import tiny_tokenizer
from evolute.types import RequestError, SamplingParams

TEXTS = TokenTexts(tiny_tokenizer())
PATTERNS = [
    *("ab", "a+b", "a{2,3}", "(a|bc)+d", "[^ab]b", r"\d", "a.c", "(?s)a.c"),
    *("b(a?b){2}", "(ab|ba){2,}"),
    *(r"\s[a-c]", r"[\w]c", "a(b(c)?)?d", "(?:a|b)*?c", "a|bb|ccc", "[a-b]{1,4}d", r"[^\d\s]{3}"),
]  # fmt: skip


def first_match(text, patterns):
    """By trying every stretch of the text."""
    for end in range(1, len(text) + 1):
        for start in range(end):
            found = [p for p in patterns if re.fullmatch(p, text[start:end])]
            if found:
                return start, end, found
    return None


@given(
    st.text("abcd 1\n", max_size=24), st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3)
)
def test_the_match_that_is_complete_first_is_found_and_what_is_safe_is_never_in_it(text, patterns):
    expected = first_match(text, patterns)
    scan, found, safe = compile_regexes(tuple(patterns)).start(), None, []
    for character in text:
        found = scan.push(character)
        if found:
            break
        safe.append(scan.safe)
    assert (found is None) == (expected is None)
    if found:
        assert (found.start, found.end) == expected[:2] and found.pattern in expected[2]
        assert all(one <= found.start for one in safe)


@given(
    st.text("abc", max_size=20),
    st.lists(st.text("abc", min_size=1, max_size=3), max_size=2),
    st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=2),
    st.booleans(),
)
def test_strings_and_regexes_end_a_stream_together(text, strings, patterns, include_stop):
    regexes = compile_regexes(tuple(patterns))
    out = TextStream(TEXTS, strings, regexes, include_stop=include_stop)
    shown = "".join([*(out.push(byte) for byte in text.encode()), out.finish()])
    ends = [(text.find(s) + len(s), text.find(s)) for s in strings if s in text]
    match = first_match(text, patterns)
    ends += [(match[1], match[0])] if match else []
    end, start = min(ends, default=(len(text), len(text)))
    assert shown == text[: end if include_stop else start]
    assert (out.matched_stop is not None) == bool(ends)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", "unterminated"),
        ("a*", "empty text"),
        ("", "empty stop would end the text at once"),
        ("^a", "at .anchors"),
        ("a(?=b)", "look-around"),
        (r"(a)\1", "back-references"),
        ("(?i)a", "inline flags"),
        ("(?i:a)", "flags of a group"),
        ("a" * 257, "at most 256"),
        ("((a{100}){100}){100}", "transitions"),
        ("(((|){9999}){9999}){9999}a", "transitions"),
        ("(a?){999}b", "transitions"),
        ("([ab]*[ab]*[ab]*[ab]*){40}c", "transitions"),
    ],
)
def test_what_has_no_bounded_match_is_refused_at_once(pattern, reason):
    began = time.monotonic()
    with pytest.raises(RequestError, match=reason):
        compile_regexes(SamplingParams(stop_regex=(pattern,)).stop_regex)
    assert time.monotonic() - began < 2


def test_a_pattern_that_backtracking_cannot_do_costs_no_more_per_character():
    regexes = compile_regexes(("(a|a)*(a|a)*(a|aa)+(a*a*)*b",))
    assert regexes.num_edges <= MAX_EDGES
    scan, began = regexes.start(), time.monotonic()
    assert scan.push("a" * 3000) is None and scan.safe == 0
    assert scan.push("b").start == 0
    assert time.monotonic() - began < 5


def test_the_engine_stops_at_a_regex_and_names_it():
    with Engine("tiny", num_threads=1) as engine:
        plain = SamplingParams(max_new_tokens=40, temperature=0, ignore_eos=True)
        (free,) = engine.generate("hello", plain)
        place = next(i for i, c in enumerate(free.text) if c.isascii() and c.isalpha() and i > 2)
        (found,) = engine.generate(
            "hello",
            SamplingParams(
                max_new_tokens=40, temperature=0, ignore_eos=True, stop_regex=("[a-zA-Z]",)
            ),
        )
        first = next(i for i, c in enumerate(free.text) if c.isascii() and c.isalpha())
        assert place >= first
        assert found.text == free.text[:first]
        assert (found.finish_reason, found.matched_stop) == ("stop", "[a-zA-Z]")
