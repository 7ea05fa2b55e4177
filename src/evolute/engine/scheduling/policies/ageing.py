"""How often may a request be passed over by later ones, and who is next among those that came?

    ranks(sequences, cached_tokens)   level (0: nobody later goes before it; 1: hardly anybody;
                                      2: many), and within it the longest prefix
    count_passed(waiting, admitted)   those that came before the admitted one were passed once more
    in_turn(waiting, newest_first)    the order within one queue

A bound on passes, not a bonus in tokens: a bonus larger than the shared prefixes turns the order
back into arrival order, and a small one lets a cold request starve. There are two levels because
the aged keep the order of their prefixes until they are old: else a burst of prefixes that do not
all fit in memory would be served in the order of arrival, and thrash.

Bound: a sequence is passed over at most LAST_PASS - 1 + R times, where R is how many may run. With
LAST_PASS - 1 passes at the start of a step it may be passed by all whom that step admits; in the
next one nobody behind it in its queue is looked at before it, and when it cannot go on, neither
can they.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, filterfalse, islice, takewhile, zip_longest

from evolute.engine.scheduling.sequence import Sequence

WINDOW = 128  # so many are matched in a step; matching all of a long queue costs more than it saves
MAX_PASSES = 64  # passed over this often, a sequence goes before all that were not
LAST_PASS = 2 * MAX_PASSES  # and this often, before everybody who came later
CachedTokens = Callable[[Sequence], int]
Waiting = OrderedDict[Sequence, None]  # in the order of arrival, preempted ones at the front


def ranks(sequences: Iterable[Sequence], cached_tokens: CachedTokens) -> list[tuple[int, int]]:
    """Of each; the smaller goes first. Those that nobody passes go as they came."""
    last, aged = LAST_PASS, MAX_PASSES
    return [
        (1 if s.passed_over >= aged else 2, -cached_tokens(s)) if s.passed_over < last else (0, 0)
        for s in sequences
    ]


def count_passed(waiting: Waiting, admitted: Sequence, *, newest_first: bool) -> None:
    """Newest first, those with a deadline are meant to be passed; of the others the WINDOW that
    came first are counted, as the admitted one may stand behind thousands."""
    for earlier in islice(waiting, WINDOW if newest_first else None):
        if earlier is admitted:
            return
        if not (newest_first and _is_urgent(earlier)):
            earlier.passed_over += 1


def put(waiting: Waiting, sequence: Sequence, *, front: bool) -> None:
    """Append it; `front`: before all others."""
    waiting[sequence] = None
    if front:
        waiting.move_to_end(sequence, last=False)


def in_turn(waiting: Waiting, *, newest_first: bool) -> Iterator[Sequence]:
    """Lazy. Newest first: those preempted go on first, then the newest of those with a deadline
    and the oldest of those without one take turns, so that neither kind starves."""
    if not newest_first:
        return iter(waiting)
    return _newest_first(waiting)


# -- internals ---------------------------------------------------------------


def _newest_first(waiting: Waiting) -> Iterator[Sequence]:
    begun = list(takewhile(lambda s: s.num_preemptions, waiting))  # they stand at the front
    yield from begun
    urgent = filter(_is_urgent, reversed(waiting))
    others = filterfalse(_is_urgent, islice(waiting, len(begun), None))
    pairs = zip_longest(urgent, others)
    yield from (s for s in chain.from_iterable(pairs) if s is not None)


def _is_urgent(sequence: Sequence) -> bool:
    return sequence.has_deadline and not sequence.num_preemptions
