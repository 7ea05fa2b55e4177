"""Whatever is sampled under the mask validates, and ends only where it validates."""

from __future__ import annotations

import json
import random
import re
from functools import cache
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from evolute.grammar import GrammarCompiler, Matcher
from evolute.testing import ByteTokenizer
from evolute.types import SamplingParams, Tokenizer

MAX_TOKENS = 400
LEAVES = st.sampled_from(
    [
        {"type": "integer"},
        {"type": "boolean"},
        {"type": "null"},
        {"type": "number"},
        {"type": "string", "maxLength": 8},
        {"enum": ["red", "green", 3, None]},
        {"const": "a\u00e9b"},
        {"type": "integer", "minimum": -3, "maximum": 120},
        {"type": "string", "pattern": "^[a-c]{2,4}$"},
    ]
)


def _objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from(["a", "name", "x y", "\u00fc"])
    closed = {"type": "object", "additionalProperties": False}
    return st.one_of(
        inner.map(lambda item: {"type": "array", "items": item, "maxItems": 3}),
        st.lists(inner, min_size=1, max_size=2).map(lambda items: {"anyOf": items}),
        st.dictionaries(names, inner, max_size=3).map(
            lambda fields: {**closed, "properties": fields, "required": sorted(fields)[:1]}
        ),
    )


SCHEMAS = st.recursive(LEAVES, _objects, max_leaves=5)
REGEXES = st.sampled_from(
    [
        r"[a-z]{3,8}",
        r"(foo|bar|foobar)+",
        r"[0-9]{1,3}(\.[0-9]{1,3}){3}",
        r"(\u00e9|\U0001f389)*x",
        r"a?b?c?",
        r"[^\n]{0,5}END",
        r"(yes|no|maybe), because [A-Z][a-z ]{2,9}\.",
    ]
)


@cache
def compiler_of(name: str) -> tuple[Tokenizer, GrammarCompiler]:
    tokenizer: Tokenizer
    if name == "bytes":
        tokenizer = ByteTokenizer()
    else:
        from evolute.models import load_model

        tokenizer = load_model(name).tokenizer
    return tokenizer, GrammarCompiler(tokenizer)


def allowed(matcher: Matcher, vocab_size: int) -> list[int]:
    row = np.empty(-(-vocab_size // 32), np.uint32)
    matcher.fill_mask(row)
    bits = np.unpackbits(row.view(np.uint8), bitorder="little")
    return [int(id) for id in np.flatnonzero(bits)]


def sample(name: str, grammar: dict[str, str], seed: int) -> bytes | None:
    """Bytes of one random output, or None when it did not end within MAX_TOKENS.

    Checks on the way that the end is allowed exactly in accepting states, and that a refused
    token is refused by `accept` too.
    """
    tokenizer, compiler = compiler_of(name)
    compiled = compiler.compile(SamplingParams(**grammar))  # type: ignore[arg-type]
    assert compiled is not None
    matcher, rng, output = compiled.start(), random.Random(seed), b""
    for _ in range(MAX_TOKENS):
        choices = allowed(matcher, tokenizer.vocab_size)
        ends = tokenizer.stop_token_ids & set(choices)
        assert bool(ends) == matcher.is_accepting
        assert choices and not matcher.error
        if ends and (matcher.is_finished or rng.random() < 0.2):
            assert not (matcher.is_finished and set(choices) - ends)
            assert matcher.accept(min(ends)) and matcher.is_ended
            return output
        refused = rng.randrange(tokenizer.vocab_size)
        if refused not in choices:
            assert not matcher.accept(refused)
        token_id = rng.choice(sorted(set(choices) - ends) or choices)
        assert matcher.accept(token_id)
        output += tokenizer.token_bytes(token_id)
    return None


@given(SCHEMAS, st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_json_sampled_under_the_mask_validates(schema: Any, seed: int) -> None:
    output = sample("bytes", {"json_schema": json.dumps(schema)}, seed)
    assume(output is not None)  # too many cut short, and Hypothesis complains
    jsonschema.validate(json.loads(output.decode(errors="replace")), schema)


@given(REGEXES, st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_text_sampled_under_the_mask_matches(regex: str, seed: int) -> None:
    output = sample("bytes", {"regex": regex}, seed)
    assume(output is not None)  # too many cut short, and Hypothesis complains
    assert re.fullmatch(regex, output.decode())


@given(REGEXES, st.integers(0, 2**32), st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_rollback_returns_to_the_same_masks(regex: str, seed: int, count: int) -> None:
    tokenizer, compiler = compiler_of("bytes")
    compiled = compiler.compile(SamplingParams(regex=regex))
    assert compiled is not None
    matcher, rng, masks = compiled.start(), random.Random(seed), []
    while len(masks) < 20:
        masks.append(allowed(matcher, tokenizer.vocab_size))
        if not matcher.accept(rng.choice(masks[-1])) or matcher.is_ended:
            break
    back = min(count, matcher.num_accepted)
    left = matcher.num_accepted - back
    assert matcher.rollback(back)
    if left < len(masks):
        assert allowed(matcher, tokenizer.vocab_size) == masks[left]


@pytest.mark.slow
@given(st.one_of(SCHEMAS.map(json.dumps), REGEXES), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_a_real_vocabulary_too(grammar: str, seed: int) -> None:
    is_json = grammar.startswith("{")
    kind = "json_schema" if is_json else "regex"
    output = sample("smollm2-135m", {kind: grammar}, seed)
    if output is not None and is_json:
        jsonschema.validate(json.loads(output.decode(errors="replace")), json.loads(grammar))
    elif output is not None:
        assert re.fullmatch(grammar, output.decode())


@pytest.mark.slow
def test_the_vocabulary_from_bytes_gives_the_masks_of_the_tokenizer_file() -> None:
    fast, compiler = compiler_of("smollm2-135m")

    class Described:
        """The same tokenizer without its file: only what `types.Tokenizer` promises."""

        def __getattr__(self, name: str) -> Any:
            if name == "tokenizers":
                raise AttributeError(name)
            return getattr(fast, name)

    described: Any = Described()
    for text in (r"[a-z]{3,8}", r"(\u00e9|x)+"):
        sampling = SamplingParams(regex=text)
        grammars = [c.compile(sampling) for c in (compiler, GrammarCompiler(described))]
        masks = [allowed(g.start(), fast.vocab_size) for g in grammars if g is not None]
        assert masks[0] == masks[1] != []
