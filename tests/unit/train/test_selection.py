"""Which rollouts are trained on: dynamic sampling, filters, penalties."""

import asyncio

import pytest
import torch

from evolute.train import TrainConfig
from evolute.train.algorithms import SelectionConfig, choose_groups, is_useful, overlong_penalty
from evolute.train.credit import credit
from evolute.train.rollouts import gathered
from evolute.train.settings import AlgorithmConfig
from evolute.types import Outcome, Rollout, TrainingError, TrainingSample


def rollout(group, index, reward, *, length=2, outcome=Outcome.DONE):
    sample = TrainingSample((1,), (2,) * length, (True,) * length, (-1.0,) * length)
    return Rollout(str(group), group, index, reward, outcome, (sample,))


def config(*, max_new_tokens=0, **selection):
    algorithm = AlgorithmConfig(selection=SelectionConfig(**selection))
    return TrainConfig(model="tiny", algorithm=algorithm, max_new_tokens=max_new_tokens)


def test_contrast_is_needed():
    assert is_useful([0.0, 1.0]) and not is_useful([1.0, 1.0]) and not is_useful([1.0])
    assert not is_useful([0.5, 0.5 + 1e-7])


@pytest.mark.parametrize(
    ("how", "useful", "expected"),
    [
        ("filter", "0110", None),
        ("filter", "011011", [1, 2, 4]),
        ("filter", "1111", [0, 1, 2]),
        ("replace", "0100", None),  # a quarter is not more than 0.3
        ("replace", "0110", [1, 2, 1]),
        ("off", "0000", [0, 1, 2]),
    ],
)
def test_groups_are_chosen_in_their_order(how, useful, expected):
    good = [flag == "1" for flag in useful]
    found = choose_groups(range(len(good)), good, 3, SelectionConfig(dynamic=how))
    assert found == expected


@pytest.mark.parametrize(
    ("length", "expected"),
    [(16384, 0.0), (16385, -1 / 4096), (19456, -0.75), (20480, -1.0), (30000, -1.0)],
)
def test_the_overlong_penalty(length, expected):
    assert overlong_penalty(length, 20480, 4096) == pytest.approx(expected)
    assert overlong_penalty(length, 20480, 0) == 0.0


def test_the_penalty_changes_the_rewards_before_the_credit():
    long = [rollout(0, 0, 1.0, length=8), rollout(0, 1, 1.0, length=2)]
    found = credit(long, config(max_new_tokens=8, penalty_tokens=4))
    assert found[0].advantage < 0 < found[1].advantage
    assert [c.advantage for c in credit(long, config(max_new_tokens=8))] == [0.0, 0.0]


def test_the_penalty_is_that_of_the_longest_turn():
    """A limit of tokens is one turn's: many short turns are not long."""

    def talk(index, *turns):
        masks = [[True] * size for size in turns]
        mask = [one for each in masks for one in (*each, False)][:-1]
        whole = TrainingSample((1,), (2,) * len(mask), tuple(mask), (0.0,) * len(mask))
        return Rollout("p", 0, index, 1.0, Outcome.DONE, (whole,))

    def apart(index, *turns):
        samples = tuple(s for size in turns for s in talk(0, size).samples)
        return Rollout("p", 0, index, 1.0, Outcome.DONE, samples)

    settings = config(max_new_tokens=8, penalty_tokens=4)
    short = [talk(0, 4), talk(1, 4, 4, 4, 4), apart(2, 4, 3, 4)]
    assert [c.advantage for c in credit(short, settings)] == [0.0] * 5
    long = credit([talk(0, 4, 8), talk(1, 4, 4)], settings)
    assert long[0].advantage < 0 < long[1].advantage


def test_an_overlong_rollout_counts_in_its_group_and_has_no_gradient():
    cut = Outcome.TRUNCATED
    rollouts = [rollout(0, 0, 1.0), rollout(0, 1, 0.0, outcome=cut), rollout(0, 2, 0.0)]
    kept = credit(rollouts, config(overlong=True))
    everything = credit(rollouts, config())
    assert [c.number for c in kept] == [0, 2] and [c.number for c in everything] == [0, 1, 2]
    plain = [c.advantage / c.weight for c in (kept[0], everything[0])]
    assert plain[0] == pytest.approx(plain[1])
    assert kept[0].weight == 1 / 4 and everything[0].weight == 1 / 6


def test_groups_without_contrast_leave_the_counts():
    rollouts = [rollout(g, i, float(g == 1 and i)) for g in range(3) for i in range(2)]
    assert [c.group for c in credit(rollouts, config(zero_variance=True))] == [1, 1]
    assert {c.weight for c in credit(rollouts, config(zero_variance=True))} == {1 / 4}
    assert {c.weight for c in credit(rollouts, config())} == {1 / 12}


def test_failed_rollouts_are_no_zeros():
    rollouts = [rollout(0, 0, 1.0), rollout(0, 1, 1.0), rollout(0, 2, 0.0, outcome=Outcome.FAILED)]
    assert [c.advantage for c in credit(rollouts, config())] == [0.0, 0.0]


def played(script):
    """Batches of two groups; '1' is a group with contrast, 'x' one whose contrast has failed."""

    async def roll_out(again):
        found = []
        for place, kind in enumerate(script[again]):
            group = 2 * again + place
            second = Outcome.FAILED if kind == "x" else Outcome.DONE
            last = rollout(group, 1, float(kind != "0"), outcome=second)
            found.append([rollout(group, 0, 0.0), last])
        return found

    return roll_out


def test_sampling_goes_on_until_there_are_enough_groups():
    found = asyncio.run(gathered(2, played(["00", "1x", "01"]), SelectionConfig(dynamic="filter")))
    assert [r.problem_id for r in found.chosen] == ["2", "2", "5", "5"]
    assert [r.group for r in found.chosen] == [0, 0, 1, 1]
    assert len(found.played) == 12 and found.num_batches == 3 and found.num_useless == 4


def test_sampling_ends_with_an_error_that_says_how_many():
    chosen = SelectionConfig(dynamic="filter", max_batches=2)
    with pytest.raises(TrainingError, match="after 2 batches 1 of 4 groups"):
        asyncio.run(gathered(2, played(["00", "10", "11"]), chosen))


def test_without_dynamic_sampling_one_batch_is_all():
    found = asyncio.run(gathered(2, played(["00"]), SelectionConfig()))
    assert found.chosen == found.played and found.num_batches == 1


def test_copies_are_groups_of_their_own():
    chosen = SelectionConfig(dynamic="replace")
    found = asyncio.run(gathered(2, played(["01"]), chosen))
    assert [(r.problem_id, r.group) for r in found.chosen] == [
        ("1", 0),
        ("1", 0),
        ("1", 1),
        ("1", 1),
    ]
    weights = torch.tensor([c.advantage for c in credit(found.chosen, config())])
    torch.testing.assert_close(weights[:2], weights[2:])
