"""Grammars: what is allowed, what is refused, and what is shared."""

from __future__ import annotations

import json
import threading
import time

import numpy as np
import pytest

from evolute.grammar import GrammarCompiler, Matcher
from evolute.grammar import compiler as compiler_module
from evolute.testing import ByteTokenizer
from evolute.types import BadGrammar, ConfigError, SamplingParams

TOKENIZER = ByteTokenizer()
EOS = set(TOKENIZER.stop_token_ids)


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(TOKENIZER)


def begin(compiler: GrammarCompiler, **grammar: str) -> Matcher:
    compiled = compiler.compile(SamplingParams(**grammar))  # type: ignore[arg-type]
    assert compiled is not None
    return compiled.start()


def allowed(matcher: Matcher, num_words: int = 9) -> set[int]:
    row = np.full(num_words, 0xFFFFFFFF, np.uint32)
    matcher.fill_mask(row)
    bits = np.unpackbits(row.view(np.uint8), bitorder="little")
    return {int(id) for id in np.flatnonzero(bits)}


def push(matcher: Matcher, text: str) -> None:
    assert all(matcher.accept(byte) for byte in text.encode())


def test_a_request_without_grammar_has_none(compiler: GrammarCompiler) -> None:
    assert compiler.compile(SamplingParams()) is None


def test_end_of_sequence_is_allowed_exactly_where_the_text_matches(
    compiler: GrammarCompiler,
) -> None:
    matcher = begin(compiler, regex="a(bc)?")
    assert allowed(matcher) == {ord("a")}
    push(matcher, "a")
    assert allowed(matcher) == {ord("b")} | EOS
    assert matcher.is_accepting and not matcher.is_finished
    push(matcher, "b")
    assert allowed(matcher) == {ord("c")}
    assert not matcher.is_accepting
    push(matcher, "c")
    assert allowed(matcher) == EOS
    assert matcher.is_finished and not matcher.is_ended


def test_each_kind_constrains(compiler: GrammarCompiler) -> None:
    schema = json.dumps({"enum": ["yes", 7]})
    assert allowed(begin(compiler, json_schema=schema)) == {ord('"'), ord("7")}
    assert allowed(begin(compiler, lark='start: "x" | /[0-1]/')) == set(b"x01")
    assert allowed(begin(compiler, regex="[p-q]")) == set(b"pq")


def test_a_token_that_may_not_come_changes_nothing(compiler: GrammarCompiler) -> None:
    matcher = begin(compiler, regex="ab")
    assert not matcher.accept(ord("x"))
    assert not matcher.accept(TOKENIZER.eos_token_id)
    assert not matcher.accept(10_000)
    assert not matcher.accept(-1)
    assert matcher.num_accepted == 0
    push(matcher, "ab")


def test_the_end_is_accepted_once(compiler: GrammarCompiler) -> None:
    matcher = begin(compiler, regex="a")
    push(matcher, "a")
    assert matcher.accept(TOKENIZER.eos_token_id)
    assert matcher.is_ended and matcher.is_finished
    assert not matcher.accept(TOKENIZER.eos_token_id)
    assert matcher.num_accepted == 2


def test_rollback_and_copy_return_to_the_same_mask(compiler: GrammarCompiler) -> None:
    matcher = begin(compiler, json_schema='{"type": "object"}')
    push(matcher, '{"a')
    before, twin = allowed(matcher), matcher.copy()
    push(matcher, '": 1')
    assert allowed(twin) == before != allowed(matcher)
    assert matcher.rollback(4)
    assert allowed(matcher) == before
    assert not matcher.rollback(4)  # only three are left
    assert matcher.num_accepted == 3
    assert matcher.rollback(0)
    push(twin, '": 1')


def test_rollback_over_the_end(compiler: GrammarCompiler) -> None:
    matcher = begin(compiler, regex="ab?")
    push(matcher, "a")
    assert matcher.accept(TOKENIZER.eos_token_id)
    assert matcher.rollback(1)
    assert not matcher.is_ended
    push(matcher, "b")


def test_forced_tokens_are_those_that_must_come(compiler: GrammarCompiler) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    schema["additionalProperties"] = False
    matcher = begin(compiler, json_schema=json.dumps(schema))
    push(matcher, '{"n')
    forced = matcher.forced_tokens()
    assert bytes(forced) == b'ame"'
    assert matcher.num_accepted == 3
    assert all(matcher.accept(id) for id in forced)
    assert matcher.forced_tokens() == []  # white space may come


def test_mask_row_may_be_wider_than_the_vocabulary_or_strided(compiler: GrammarCompiler) -> None:
    matcher = begin(compiler, regex="a")
    assert allowed(matcher, num_words=12) == {ord("a")}
    rows = np.full((9, 2), -1, np.int32)
    matcher.fill_mask(rows[:, 0])
    assert (rows[:, 1] == -1).all()
    assert [int(word) for word in rows[:, 0]] == [0, 0, 0, 2, 0, 0, 0, 0, 0]
    with pytest.raises(ValueError, match="at least 9"):
        matcher.fill_mask(np.zeros(8, np.uint32))


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        ("json_schema", "{'a'", "json_schema cannot be compiled"),
        ("json_schema", '{"type": "nope"}', "nope"),
        ("json_schema", "[1]", "object or boolean"),
        ("json_schema", "false", "Unsatisfiable"),
        ("json_schema", '{"$ref": "http://example.org/x"}', "does not fetch"),
        ("json_schema", '{"not": {}}', "not"),
        ("json_schema", "[" * 50_000, "json_schema"),
        ("regex", "(", "unclosed"),
        ("regex", "(?=a)b", "look-around"),
        ("regex", r"[^\s\S]", "no text at all"),
        ("lark", "start: nothing", "unknown name"),
        ("lark", "start: start", "no text at all"),
        ("lark", " ", "Empty"),
        ("regex", "a" * (1 << 19), "limit"),
    ],
)
def test_bad_grammars_are_refused_with_the_reason(
    compiler: GrammarCompiler, kind: str, text: str, reason: str
) -> None:
    for _ in range(2):  # the second time from the cache
        with pytest.raises(BadGrammar, match=reason) as caught:
            begin(compiler, **{kind: text})
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500


def test_results_are_cached_bad_ones_too_and_the_cache_is_bounded() -> None:
    compiler = GrammarCompiler(TOKENIZER, cache_size=2)
    for text in ("a", "a", "b", "(", "(", "(", "a"):
        try:
            begin(compiler, regex=text)
        except BadGrammar:
            assert text == "("
    # a, b, "(" are compiled; "(" pushed a out, so a is compiled again
    assert compiler.num_compiled == 4
    begin(compiler, lark='start: "a"')
    assert compiler.num_compiled == 5  # the kind is part of the key


def test_long_texts_are_kept_as_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolute.grammar.compiler.KEPT_CHARS", 100)
    compiler = GrammarCompiler(TOKENIZER)
    for text in ("a", "b" * 60, "a", "c" * 60, "a"):  # "b..." goes, "a" was used since
        begin(compiler, regex=text)
    assert compiler.num_compiled == 3
    begin(compiler, regex="b" * 60)
    assert compiler.num_compiled == 4
    begin(compiler, regex="d" * 101)  # more than all together: served, and not kept
    begin(compiler, regex="a")
    assert compiler.num_compiled == 6
    begin(compiler, regex="a")
    assert compiler.num_compiled == 6


def test_equal_grammars_that_arrive_together_are_compiled_once() -> None:
    compiler = GrammarCompiler(TOKENIZER)
    masks: list[set[int]] = []
    threads = [
        threading.Thread(target=lambda: masks.append(allowed(begin(compiler, regex="[a-f]{1,50}"))))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert masks == [set(b"abcdef")] * 16
    assert compiler.num_compiled == 1


def test_a_compilation_past_its_time_is_refused_at_once_the_second_time() -> None:
    release = threading.Event()

    class Slow(GrammarCompiler):
        def _build(self, kind: str, text: str) -> compiler_module.Grammar:
            release.wait(10)
            return super()._build(kind, text)

    compiler = Slow(TOKENIZER, timeout_s=0.05)
    with pytest.raises(BadGrammar, match=r"more than 0\.05 s"):
        begin(compiler, regex="a")
    began = time.monotonic()
    with pytest.raises(BadGrammar):
        begin(compiler, regex="a")
    assert time.monotonic() - began < 0.04
    release.set()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:  # once it has ended, it is there
        try:
            assert allowed(begin(compiler, regex="a")) == {ord("a")}
            break
        except BadGrammar:
            time.sleep(0.01)
    assert compiler.num_compiled == 1


def test_a_matcher_that_runs_into_a_limit_offers_only_the_end() -> None:
    class Limited(GrammarCompiler):
        def _limits(self) -> object:
            from llguidance import LLParserLimits

            return LLParserLimits(step_max_items=40, verbose_errors=False)

    matcher = begin(Limited(TOKENIZER), lark='start: a\na: "x" | a a a | a a')
    while not matcher.error and matcher.num_accepted < 200:
        allowed(matcher)
        matcher.accept(ord("x"))
    assert matcher.error
    assert allowed(matcher) == EOS
    assert matcher.is_finished and not matcher.is_accepting
    assert not matcher.accept(ord("x"))
    assert matcher.forced_tokens() == []
    assert not matcher.rollback(1)
    assert matcher.copy().error


def test_eos_ids_outside_the_vocabulary_are_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="stop_token_ids"):
        GrammarCompiler(TOKENIZER, [999])
    with pytest.raises(ConfigError):
        GrammarCompiler(TOKENIZER, [])


def test_gbnf_is_a_grammar_too_and_what_it_gets_wrong_is_named(compiler: GrammarCompiler) -> None:
    matcher = begin(compiler, ebnf='root ::= item ("," item)*\nitem ::= [0-9]+ | "x"\n')
    push(matcher, "12,x")
    assert allowed(matcher) == {ord(",")} | EOS
    for text, reason in [
        ('root ::= "a" other', "'other' not found"),
        ('start ::= "a"', "No 'root' rule"),
        ('root ::= "a', "Unexpected end"),
        ("root = x", "Expected ::="),
        ("(" * 5000, "Expected name"),
        ("root ::= " + "(" * 5000, "ebnf cannot be compiled"),
    ]:
        with pytest.raises(BadGrammar, match=reason):
            compiler.compile(SamplingParams(ebnf=text))
