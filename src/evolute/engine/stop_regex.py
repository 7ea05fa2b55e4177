"""Where does text match a stop regex first, while the text is still coming?

    compile_regexes(patterns) -> StopRegexes     checked and bounded; RequestError says why not
    regexes.start() -> StopScan                  once per output
    scan.push(text) -> Found or None             the match that is complete first
    scan.safe                                    characters that no match can begin in any more

All patterns become one position automaton (Glushkov 1961): a state for each character class, an
edge for each pair that may follow. A state remembers where its leftmost match began, so what must
be held back is known exactly. A character costs at most MAX_EDGES looks, whatever the pattern.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from evolute.types import RequestError

MAX_EDGES = 4096  # of all patterns of a request together
MAX_ALPHABET = 1024  # characters whose states are remembered
DOTALL, UNICODE = int(re.DOTALL), int(re.UNICODE)  # the flags that we honour

Accepts = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Found:
    """The match that is complete first: characters [start, end) of the whole text."""

    start: int
    end: int
    pattern: str


@dataclass(slots=True)
class StopRegexes:
    """The automaton of some patterns; shared by all outputs that use them."""

    accepts: list[Accepts] = field(default_factory=list)  # by state
    follow: list[list[int]] = field(default_factory=list)  # by state
    first: list[int] = field(default_factory=list)
    final: dict[int, str] = field(default_factory=dict)  # last state -> its pattern
    num_edges: int = 0
    _entered: dict[str, frozenset[int]] = field(default_factory=dict)

    def start(self) -> StopScan:
        return StopScan(self)

    def entered_by(self, character: str) -> frozenset[int]:
        """States that this character leads into, from wherever an edge comes."""
        found = self._entered.get(character)
        if found is None:
            if len(self._entered) >= MAX_ALPHABET:
                self._entered.clear()
            found = frozenset(i for i, accepts in enumerate(self.accepts) if accepts(character))
            self._entered[character] = found
        return found


class StopScan:
    """One text under the automaton, character by character."""

    def __init__(self, regexes: StopRegexes) -> None:
        self._regexes = regexes
        self._began: dict[int, int] = {}  # live state -> where its leftmost match began
        self._at = 0

    @property
    def safe(self) -> int:
        return min(self._began.values(), default=self._at)

    def push(self, text: str) -> Found | None:
        for character in text:
            found = self._step(character)
            if found is not None:
                return found
        return None

    def _step(self, character: str) -> Found | None:
        regexes, at = self._regexes, self._at
        entered = regexes.entered_by(character)
        live: dict[int, int] = {}
        if entered:
            for state, began in self._began.items():
                for target in regexes.follow[state]:
                    if target in entered and began < live.get(target, at):
                        live[target] = began
            for state in regexes.first:
                if state in entered:
                    live.setdefault(state, at)
        self._began, self._at = live, at + 1
        ends = [(began, state) for state, began in live.items() if state in regexes.final]
        if not ends:
            return None
        began, state = min(ends)
        return Found(began, at + 1, regexes.final[state])


@lru_cache(maxsize=256)
def compile_regexes(patterns: tuple[str, ...]) -> StopRegexes | None:
    """None without patterns. Raises RequestError for what cannot be matched in bounded time."""
    if not patterns:
        return None
    regexes = StopRegexes()
    for pattern in patterns:
        tree = _parse(pattern)
        is_dotall = bool(tree.state.flags & DOTALL)
        part = _Builder(regexes, pattern, is_dotall).sequence(tree)
        if part.nullable:
            raise _refusal(pattern, "it matches the empty text and would stop at once")
        regexes.first += part.first
        regexes.final |= dict.fromkeys(part.last, pattern)
    return regexes


# -- internals ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of a pattern: the states it may begin and end with, and whether it may be empty."""

    nullable: bool
    first: Sequence[int] = ()
    last: Sequence[int] = ()


EMPTY = _Part(True)


class _Builder:
    """Turns the nodes of `re`'s own parser into states and edges."""

    def __init__(self, regexes: StopRegexes, pattern: str, is_dotall: bool) -> None:
        self._regexes, self._pattern, self._is_dotall = regexes, pattern, is_dotall

    def sequence(self, nodes: Iterable[Any]) -> _Part:
        whole = EMPTY
        for node in nodes:
            whole = self._join(whole, self._node(node))
        return whole

    def _node(self, node: Any) -> _Part:
        kind, value = str(node[0]), node[1]
        if kind == "SUBPATTERN":
            if value[1] or value[2]:
                raise _refusal(self._pattern, "flags of a group are not known")
            return self.sequence(value[3])
        if kind == "BRANCH":
            return _either([self.sequence(branch) for branch in value[1]])
        if kind in ("MAX_REPEAT", "MIN_REPEAT"):  # the shortest match ends the text either way
            return self._repeat(*value)
        if kind == "ANY":
            return self._state(_any if self._is_dotall else "\n".__ne__)
        return self._state(_class(kind, value, self._pattern))

    def _repeat(self, low: int, high: Any, nodes: Sequence[Any]) -> _Part:
        if str(high) == "MAXREPEAT":
            whole = self._copies(max(low - 1, 0), nodes)
            part = self.sequence(nodes)
            self._link(part.last, part.first)
            looped = _Part(part.nullable or low == 0, part.first, part.last)
            return self._join(whole, looped)
        whole, rest = self._copies(low, nodes), EMPTY
        for _ in range(high - low):  # from the inside: (a(a(a)?)?)?
            self._count(1)
            more = self._join(self.sequence(nodes), rest)
            rest = _Part(True, more.first, more.last)
        return self._join(whole, rest)

    def _copies(self, count: int, nodes: Sequence[Any]) -> _Part:
        whole = EMPTY
        for _ in range(count):
            self._count(1)  # a copy without a state is work too
            whole = self._join(whole, self.sequence(nodes))
        return whole

    def _join(self, left: _Part, right: _Part) -> _Part:
        self._link(left.last, right.first)
        first = [*left.first, *(right.first if left.nullable else ())]
        last = [*right.last, *(left.last if right.nullable else ())]
        return _Part(left.nullable and right.nullable, first, last)

    def _link(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        self._count(len(sources) * len(targets))
        for source in sources:
            known = self._regexes.follow[source]
            known += [target for target in targets if target not in known]

    def _state(self, accepts: Accepts) -> _Part:
        self._count(1)
        self._regexes.accepts.append(accepts)
        self._regexes.follow.append([])
        state = [len(self._regexes.accepts) - 1]
        return _Part(False, state, state)

    def _count(self, num_edges: int) -> None:
        self._regexes.num_edges += num_edges
        if self._regexes.num_edges > MAX_EDGES:
            raise _refusal(
                self._pattern, f"with what it repeats it has more than {MAX_EDGES} transitions"
            )


def _either(parts: Sequence[_Part]) -> _Part:
    return _Part(
        any(part.nullable for part in parts),
        [state for part in parts for state in part.first],
        [state for part in parts for state in part.last],
    )


def _parse(pattern: str) -> Any:
    parser: Any = importlib.import_module("re._parser")
    try:
        tree = parser.parse(pattern)
    except (ValueError, OverflowError, RecursionError, Warning, parser.error) as error:
        raise _refusal(pattern, str(error)) from None
    if tree.state.flags & ~(DOTALL | UNICODE):
        raise _refusal(pattern, "of inline flags only (?s) is known")
    return tree


def _class(kind: str, value: Any, pattern: str) -> Accepts:
    """Whether one character belongs to a literal or to [...]."""
    if kind == "LITERAL":
        return chr(value).__eq__
    if kind == "NOT_LITERAL":
        return chr(value).__ne__
    if kind == "IN":
        members = [_class(str(k), v, pattern) for k, v in value if str(k) != "NEGATE"]
        is_negated = str(value[0][0]) == "NEGATE"
        return lambda character: any(m(character) for m in members) != is_negated
    if kind == "RANGE":
        low, high = value
        return lambda character: low <= ord(character) <= high
    if kind == "CATEGORY" and str(value) in CATEGORIES:
        return CATEGORIES[str(value)]
    raise _refusal(pattern, f"{kind.lower()} (anchors, look-around, back-references) is not known")


def _any(character: str) -> bool:
    return True


CATEGORIES: dict[str, Accepts] = {
    "CATEGORY_DIGIT": str.isdecimal,
    "CATEGORY_NOT_DIGIT": lambda c: not c.isdecimal(),
    "CATEGORY_SPACE": str.isspace,
    "CATEGORY_NOT_SPACE": lambda c: not c.isspace(),
    "CATEGORY_WORD": lambda c: c.isalnum() or c == "_",
    "CATEGORY_NOT_WORD": lambda c: not (c.isalnum() or c == "_"),
}


def _refusal(pattern: str, reason: str) -> RequestError:
    return RequestError(f"stop_regex {pattern[:80]!r} cannot be used: {reason}.")
