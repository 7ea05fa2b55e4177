"""Admission by the card's numbers, and what becomes of a group that is too stale."""

import pytest

from evolute.train.control.staleness import StalenessControl, judge
from evolute.types import TrainingError


def admitted(control):
    count = 0
    while control.capacity > 0:
        control.submit()
        count += 1
    return count


def test_two_groups_a_step_one_step_stale():
    control = StalenessControl(batch=2, max_staleness=1, max_concurrent=100)
    assert admitted(control) == 4
    with pytest.raises(TrainingError, match="without capacity"):
        control.submit()
    control.accept(), control.accept()
    assert admitted(control) == 0  # the trainer has not used them
    control.advance()
    assert admitted(control) == 2


def test_without_staleness_exactly_one_batch():
    control = StalenessControl(batch=3, max_staleness=0, max_concurrent=100)
    for _ in range(5):
        assert admitted(control) == 3
        for _ in range(3):
            control.accept()
        assert admitted(control) == 0
        control.advance()
    assert control.submitted == control.accepted == 15


def test_concurrency_is_a_bound_of_its_own():
    control = StalenessControl(batch=4, max_staleness=4, max_concurrent=5)
    assert admitted(control) == 5
    control.accept()
    assert admitted(control) == 1


def test_what_is_dropped_or_cancelled_makes_room():
    control = StalenessControl(batch=2, max_staleness=0, max_concurrent=9)
    admitted(control)
    control.cancel()
    assert admitted(control) == 1
    control.accept(), control.filter()
    assert admitted(control) == 1
    assert (control.submitted, control.accepted, control.filtered, control.running) == (4, 0, 2, 2)


@pytest.mark.parametrize("move", ["accept", "cancel", "filter"])
def test_a_move_without_a_group_is_an_error(move):
    control = StalenessControl(batch=2, max_staleness=0, max_concurrent=9)
    with pytest.raises(TrainingError, match="do not add up"):
        getattr(control, move)()


@pytest.mark.parametrize(
    ("staleness", "requeues", "stale", "expected"),
    [
        (2, 0, "drop", "train"),
        (3, 0, "drop", "drop"),
        (3, 0, "train", "train"),
        (3, 0, "requeue", "requeue"),
        (3, 1, "requeue", "requeue"),
        (9, 2, "requeue", "train"),
        (9, 5, "drop", "drop"),
    ],
)
def test_a_stale_group_is_judged_by_the_setting(staleness, requeues, stale, expected):
    found = judge(staleness, requeues, max_staleness=2, stale=stale, max_requeues=2)
    assert found == expected
