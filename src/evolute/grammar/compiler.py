"""From the grammar text of a request to something that can mask tokens.

    compiler = GrammarCompiler(tokenizer)        once per tokenizer
    grammar = compiler.compile(sampling)         None when the request has no grammar
    matcher = grammar.start()                    once per output

Built on llguidance (an Earley parser over a lexer of derivatives, with the tokenizer as a
trie): masks are computed on the fly, so there is no table to build per grammar. What we add is
the bounded cache, the time limit, and that every failure is a `BadGrammar` at compile.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import gbnf_to_lark

from evolute.grammar.matcher import Matcher
from evolute.grammar.vocabulary import check_ends, vocabulary
from evolute.types import BadGrammar, SamplingParams, Tokenizer
from evolute.types.sampling import GRAMMARS

logger = logging.getLogger(__name__)

MAX_TEXT_BYTES = 1 << 18
KEPT_CHARS = 1 << 20  # of all texts that are kept: what is compiled of one grows with it
# Between two JSON tokens. Unbounded, a small model can stay in white space for ever.
JSON_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,32}"


class Grammar:
    """One compiled grammar; shared by every output that uses it. Thread-safe."""

    def __init__(
        self, kind: str, pristine: LLMatcher, vocab_size: int, eos_token_ids: frozenset[int]
    ) -> None:
        self.kind = kind
        self._matcher = Matcher(pristine, vocab_size, eos_token_ids)
        self._lock = threading.Lock()

    def start(self) -> Matcher:
        """A matcher at the beginning."""
        with self._lock:
            return self._matcher.copy()


@dataclass(frozen=True, slots=True)
class _Entry:
    """A grammar that is compiled or being compiled; `result` may hold a BadGrammar."""

    result: Future[Grammar]
    deadline_s: float  # time.monotonic


class GrammarCompiler:
    """Compiles for one tokenizer, with the last `cache_size` results kept, bad ones too, or as many
    of them as have KEPT_CHARS together.

    Thread-safe; equal texts that arrive together are compiled once. A compilation that passes
    `timeout_s` is refused, and refused at once when asked again, until it has ended.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        eos_token_ids: Iterable[int] | None = None,  # None: the tokenizer's stop ids
        *,
        cache_size: int = 256,
        timeout_s: float = 10.0,
    ) -> None:
        ids = tokenizer.stop_token_ids if eos_token_ids is None else eos_token_ids
        self._eos_token_ids = frozenset(ids)
        self._vocab_size = tokenizer.vocab_size
        check_ends(tokenizer, self._eos_token_ids)
        self._tokenizer = tokenizer
        self._vocabulary: LLTokenizer | None = None  # made by the first compilation
        self._vocabulary_lock = threading.Lock()
        self._cache_size = cache_size
        self._timeout_s = timeout_s
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._kept_chars = 0
        self._lock = threading.Lock()
        self.num_compiled = 0

    def compile(self, sampling: SamplingParams) -> Grammar | None:
        """The request's grammar, or None when it has none. Raises BadGrammar with the reason.

        Blocks for the time of the compilation (the interpreter lock is released meanwhile).
        """
        for kind in GRAMMARS:
            text: str | None = getattr(sampling, kind)
            if text:
                return self._get(kind, text)
        return None

    def _get(self, kind: str, text: str) -> Grammar:
        if len(text) > MAX_TEXT_BYTES:
            raise BadGrammar(
                f"{kind} has {len(text)} characters; the limit is {MAX_TEXT_BYTES}. "
                "Split it into smaller requests."
            )
        entry = self._entry(kind, text)
        try:
            return entry.result.result(timeout=max(0.0, entry.deadline_s - time.monotonic()))
        except TimeoutError:
            raise BadGrammar(
                f"{kind} took more than {self._timeout_s:g} s to compile; simplify it "
                "(large repetition counts and wide alternatives are the usual cause)."
            ) from None
        except BadGrammar as error:  # a fresh one each time: tracebacks must not pile up
            raise BadGrammar(str(error)) from None

    def _entry(self, kind: str, text: str) -> _Entry:
        with self._lock:
            entry = self._entries.get((kind, text))
            if entry is not None:
                self._entries.move_to_end((kind, text))
                return entry
            entry = _Entry(Future(), time.monotonic() + self._timeout_s)
            self._entries[kind, text] = entry
            self._kept_chars += len(text)
            while len(self._entries) > self._cache_size or self._kept_chars > KEPT_CHARS:
                (_, oldest), _ = self._entries.popitem(last=False)
                self._kept_chars -= len(oldest)
            self.num_compiled += 1
        # daemon: a compilation that hangs must not keep the process alive
        threading.Thread(target=self._run, args=(entry, kind, text), daemon=True).start()
        return entry

    def _run(self, entry: _Entry, kind: str, text: str) -> None:
        try:
            entry.result.set_result(self._build(kind, text))
        except BadGrammar as error:
            entry.result.set_exception(error)
        except Exception as error:
            logger.exception("the grammar library failed on a %s", kind)
            entry.result.set_exception(BadGrammar(f"{kind} cannot be compiled: {error}"))

    def _build(self, kind: str, text: str) -> Grammar:
        source = _source(kind, text)
        pristine = LLMatcher(self._known(), source, log_level=0, limits=self._limits())
        if pristine.is_error():
            raise BadGrammar(f"{kind} cannot be compiled: {_reason(pristine.get_error())}")
        grammar = Grammar(kind, pristine, self._vocab_size, self._eos_token_ids)
        self._refuse_if_unsatisfiable(kind, grammar)
        return grammar

    def _known(self) -> LLTokenizer:
        """The vocabulary. Starting without it saves those who use no grammars half a second."""
        with self._vocabulary_lock:
            if self._vocabulary is None:
                self._vocabulary = vocabulary(self._tokenizer, self._eos_token_ids)
            return self._vocabulary

    def _limits(self) -> LLParserLimits:
        """The library's own bounds on work; errors leave out the grammar's text."""
        return LLParserLimits(verbose_errors=False)

    def _refuse_if_unsatisfiable(self, kind: str, grammar: Grammar) -> None:
        """A grammar that no text satisfies would offer only the end, without accepting it."""
        matcher = grammar.start()
        row = np.zeros((self._vocab_size + 31) // 32, np.uint32)
        matcher.fill_mask(row)
        if matcher.error and "NoExtension" not in matcher.error:
            raise BadGrammar(f"{kind} cannot be compiled: {_reason(matcher.error)}")
        bits = np.unpackbits(row.view(np.uint8), bitorder="little")
        only_the_end = self._eos_token_ids >= {int(id) for id in np.flatnonzero(bits)}
        if only_the_end and not matcher.is_accepting:
            raise BadGrammar(f"{kind} allows no text at all; loosen it.")


def _source(kind: str, text: str) -> str:
    """The library's own form of a grammar. Raises BadGrammar for JSON that is none."""
    try:
        if kind == "json_schema":
            defaults: Any = {"whitespace_pattern": JSON_WHITESPACE}
            is_object = text.lstrip().startswith("{")  # `true` is a schema that takes no options
            return str(LLMatcher.grammar_from_json_schema(text, defaults if is_object else None))
        if kind == "regex":
            return str(LLMatcher.grammar_from_regex(text))
        if kind == "ebnf":
            return str(LLMatcher.grammar_from_lark(_lark(text)))
        return str(LLMatcher.grammar_from_lark(text))
    except (ValueError, RecursionError) as error:
        raise BadGrammar(f"{kind} cannot be compiled: {_reason(str(error))}") from None


def _lark(text: str) -> str:
    """GBNF as Lark, whose start rule has another name. Raises ValueError."""
    try:
        return str(gbnf_to_lark(text))
    except Exception as error:  # the converter raises plain ones
        raise ValueError(f"{error}; the dialect is GBNF, with a rule `root ::= ...`") from None


def _reason(text: str) -> str:
    """The library's message on one line, at most 400 characters."""
    return " ".join(text.split())[:400]
