"""Accounts: nothing is spent twice, nothing beyond the budget, and parts count in the whole."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.lang.account import Account, Budget, Spent
from evolute.types import BudgetSpent, ConfigError

CALLS = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 40), st.floats(0, 1), st.booleans()),
    max_size=30,
)


@settings(deadline=None)
@given(CALLS, st.integers(0, 10), st.integers(0, 120))
def test_a_budget_is_kept_and_what_was_not_needed_is_free_again(calls, most_calls, most_tokens):
    account = Account(Budget(most_calls, most_tokens))
    open_ones, expected = [], Spent()
    for role, tokens, share, settles_now in calls:
        room = account.left
        try:
            open_ones.append((account.reserve(role, tokens), int(tokens * share)))
        except BudgetSpent:
            assert room.calls == 0 or room.tokens < tokens
            continue
        assert room.calls and room.tokens >= tokens
        if settles_now:
            reservation, used = open_ones.pop()
            account.settle(reservation, Spent(1, used))
            expected += Spent(1, used)
    for reservation, _ in open_ones:
        account.cancel(reservation)
    assert account.spent == expected
    assert account.spent.calls <= most_calls and account.spent.tokens <= most_tokens
    assert account.left == Budget(most_calls - expected.calls, most_tokens - expected.tokens)


def test_a_part_is_bound_by_its_own_limit_and_by_the_whole():
    whole = Account(Budget(calls=3, tokens=100))
    part = whole.part("stage", Budget(tokens=60))
    held = part.reserve("judge", 60)
    assert whole.left == Budget(2, 40)
    with pytest.raises(BudgetSpent, match="0 tokens are left in the budget of stage"):
        part.reserve("judge", 1)
    part.settle(held, Spent(calls=1, prompt_tokens=20, cached_tokens=8, output_tokens=10))
    assert part.left == Budget(2, 30) and whole.left == Budget(2, 70)
    assert whole.by_role["judge"].computed_tokens == 22
    whole.reserve("solver", 50)
    with pytest.raises(BudgetSpent, match="20 tokens are left"):
        part.reserve("judge", 25)


def test_a_negative_budget_is_refused():
    with pytest.raises(ConfigError, match="-1 calls"):
        Budget(calls=-1)
