"""Canonical texts of values: equal for equal values of equal types, and read back."""

import math
from collections import Counter, OrderedDict, defaultdict, namedtuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.envs.sandbox.values import decode, encode

hashable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda one: st.tuples(one, one) | st.frozensets(one, max_size=3),
    max_leaves=6,
)
values = st.recursive(
    hashable,
    lambda one: (
        st.lists(one, max_size=4)
        | st.tuples(one)
        | st.sets(hashable, max_size=4)
        | st.dictionaries(hashable, one, max_size=4)
    ),
    max_leaves=12,
)


@given(values)
def test_a_value_is_read_back(value):
    back = decode(encode(value))
    assert back == value and type(back) is type(value)
    assert encode(back) == encode(value)


@given(st.lists(hashable, max_size=6), st.randoms())
def test_order_does_not_matter_in_sets_and_dicts(items, source):
    mixed = list(items)
    source.shuffle(mixed)
    assert encode(set(items)) == encode(set(mixed))
    pairs = {repr(item): item for item in items}
    assert encode(pairs) == encode({repr(item): item for item in mixed})


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, 1.0), (1, True), (0, False), ([1], (1,)), ({1}, frozenset({1})), ("1", 1), (b"a", "a")],
)
def test_types_are_told_apart(one, other):
    assert encode(one) != encode(other)


def test_what_is_not_finite_survives():
    assert math.isnan(decode(encode(math.nan)))
    assert decode(encode([math.inf, -math.inf])) == [math.inf, -math.inf]
    assert decode(encode(10**5000)) == 10**5000


def test_subclasses_count_as_what_they_are():
    point = namedtuple("point", "x y")
    assert encode(point(1, 2)) == encode((1, 2))
    for kind in (Counter, OrderedDict, lambda d: defaultdict(int, d)):
        assert encode(kind({"a": 1})) == encode({"a": 1})


def test_an_object_is_its_type_and_its_text_without_address():
    class Thing:
        pass

    assert encode(Thing()) == encode(Thing())
    assert encode(decode(encode(Thing()))) == encode(Thing())
    assert encode(Thing()) != encode(object())


def test_a_value_that_contains_itself_is_refused():
    value: list = []
    value.append(value)
    with pytest.raises(ValueError, match="deeper"):
        encode(value)


@pytest.mark.parametrize("text", ["", "{", '{"a":1,"b":2}', '{"what":1}', "{}"])
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match=r"canonical|Expecting"):
        decode(text)
