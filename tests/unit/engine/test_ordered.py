"""The order of items by rank, against sorting them anew; and what looking at the first costs."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.engine.scheduling.ordered import Ordered

CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["put", "discard", "first", "walk"]), st.integers(0, 9), st.floats(0, 1)
    )
)


@given(changes=CHANGES)
def test_it_is_what_sorting_gives(changes):
    ordered, known = Ordered(), {}
    for what, item, rank in changes:
        if what == "put":
            ordered.put(item, rank)
            known[item] = rank
        elif what == "discard":
            ordered.discard(item)
            known.pop(item, None)
        elif what == "first":
            first = ordered.first()
            assert (first and first[0]) == min(known.values(), default=None)
        walked = list(ordered.walk())
        assert [rank for rank, _ in walked] == sorted(known.values())
        assert {item: rank for rank, item in walked} == known
        assert len(ordered) == len(known)


@given(changes=CHANGES, data=st.data())
def test_who_rises_is_where_it_belongs_when_a_walk_comes_to_it(changes, data):
    """As far as a walk goes, and it may be given up; blocks are small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evolute.engine.scheduling.ordered.BLOCK", 3)
        ordered, known, risen = Ordered(), {}, {}
        for tie, (what, item, rank) in enumerate(changes):
            if what == "put":
                ordered.put(item, rank, tie)
                known[item] = (rank, tie)
                risen.pop(item, None)
            elif what == "discard":
                ordered.discard(item)
                known.pop(item, None)
                risen.pop(item, None)
            elif item in known:
                known[item] = (known[item][0] + rank, known[item][1])
                risen[item] = None
            walk = ordered.walk(risen, lambda item: known[item][0])
            seen = list(itertools.islice(walk, data.draw(st.integers(0, 12))))
            assert seen == [(known[i][0], i) for i in sorted(known, key=known.get)][: len(seen)]
            assert risen.keys().isdisjoint(item for _, item in seen)


class Counted(float):
    """A rank that counts comparisons."""

    num = 0

    def __lt__(self, other):
        Counted.num += 1
        return float.__lt__(self, other)


def comparisons(size):
    """Of changing one item in eight and looking at the first eight, ten thousand times over."""
    ordered = Ordered()
    for item in range(size):
        ordered.put(item, Counted(item * 7919 % size))
    Counted.num = 0
    for turn in range(200):
        ordered.put(turn * 31 % size, Counted(turn * 104729 % 1_000_003 % size))
        walk = ordered.walk()
        for _ in range(8):
            next(walk)
    return Counted.num


def test_looking_at_the_first_few_of_many_costs_little_more_than_of_few():
    """Logarithmic: twice the digits, twice the work."""
    assert comparisons(10_000) < 2.5 * comparisons(100)
