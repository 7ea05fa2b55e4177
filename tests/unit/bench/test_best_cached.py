"""The optimum of a set of calls: by hand, and by trying every order."""

import itertools
import random

import pytest

from evolute.bench.programs.watch import Asked, best_cached, share_of_best


def call(prompt, *, own=None, output="", cached=0, is_hint=False):
    ids = tuple(map(ord, prompt))
    outputs = (tuple(map(ord, output)),) if output else ()
    return Asked(ids, len(ids) - 1 if own is None else own, cached, outputs, is_hint)


@pytest.mark.parametrize(
    ("calls", "found"),
    [
        ([call("abcd")], 0),
        ([call("abcd"), call("abxy")], 2),
        ([call("abcd"), call("abcd")], 3),  # the last token of a prompt is computed by each
        ([call("abc"), call("abcdef")], 3),  # the shorter one first, which computes its own c
        ([call("ab", output="xyz"), call("abxyzq")], 4),  # z was drawn and never read
        ([call("abcdefgh", own=5), call("abcdefgh", own=5)], 5),
        ([call("abcd"), call("bcda")], 0),
    ],
)
def test_by_hand(calls, found):
    assert best_cached(calls) == found


def least_computed(calls):
    """Every order, one after the other, with a cache that keeps everything."""
    best = None
    for order in itertools.permutations(calls):
        known, computed = set(), 0
        for one in order:
            prefixes = [one.prompt[: i + 1] for i in range(len(one.prompt))]
            hit = next((i for i, p in enumerate(prefixes) if p not in known), len(prefixes))
            hit = min(hit, one.own)
            computed += len(one.prompt) - hit
            known.update(prefixes)
            for output in one.outputs:
                known.update(one.prompt + output[: i + 1] for i in range(len(output) - 1))
        best = computed if best is None else min(best, computed)
    return best


@pytest.mark.parametrize("seed", range(60))
def test_no_order_computes_less_and_one_computes_as_much(seed):
    """Where an answer is part of a later prompt, only orders that happened count: none is here."""
    dice = random.Random(seed)
    calls = []
    for _ in range(5):
        prompt = "".join(dice.choices("ab", k=dice.randrange(1, 7)))
        calls.append(call(prompt, own=dice.randrange(len(prompt))))
    total = sum(len(one.prompt) for one in calls)
    assert total - best_cached(calls) == least_computed(calls)


def test_hints_compute_and_are_no_calls():
    asked = [
        call("abcd", is_hint=True),  # computes 4
        call("abcdx", cached=4),
        call("abcdy", cached=4),
    ]
    share = share_of_best(asked)
    assert (share.total, share.best, share.cached) == (10, 4, 10 - 4 - 1 - 1)
    assert share.of_best == 1.0
    wasted = share_of_best([*asked, call("abcdz", cached=0, is_hint=True)])
    assert wasted.cached < share.cached
