"""The bench's parts on doubles: what they count is exact."""

import asyncio

import pytest
from own_programs import OwnPrograms

from evolute.bench.thoughts.bench import TASKS, taught
from evolute.bench.thoughts.calibration import calibrate
from evolute.bench.thoughts.paraphrases import KNOWN, STRANGE, paraphrases
from evolute.bench.thoughts.teacher import MARKS, Teacher
from evolute.testing import HashingEmbedder


def test_families_are_said_in_as_many_ways_as_stated():
    texts = paraphrases(0, 25)
    assert len(KNOWN) >= 12 and len(STRANGE) == 6 and texts == paraphrases(0, 25)
    assert all(len(some) == 25 for some in texts.values())
    assert all(len(set(texts[family])) == 25 for family in KNOWN)


def test_the_curve_falls_one_way_and_rises_the_other():
    found = asyncio.run(calibrate(HashingEmbedder(), paraphrases(0, 10)))
    accepted, rejected = [r[1] for r in found.curve], [r[2] for r in found.curve]
    assert accepted == sorted(accepted, reverse=True) and rejected == sorted(rejected)
    assert found.queries == 8 * len(KNOWN) and found.strangers == 10 * len(STRANGE)
    assert found.at(found.use_above)[0] <= 0.02


@pytest.mark.parametrize("family", ["game-of-24", "dates"])
def test_a_taught_buffer_needs_one_call_and_then_none(tmp_path, family):
    figures = asyncio.run(
        taught(tmp_path, HashingEmbedder(), OwnPrograms, 3, {family: TASKS[family]})
    )
    assert figures[f"taught/{family}/first/calls"] == pytest.approx(1 / 3)
    assert figures[f"taught/{family}/second/calls"] == 0
    assert figures[f"taught/{family}/templates"] == 1
    assert figures[f"not_growing/{family}/second/calls"] == 1
    accuracies = [v for k, v in figures.items() if k.endswith("accuracy")]
    assert accuracies == [1.0] * 4


def test_the_teacher_knows_each_family_and_nothing_else():
    assert set(MARKS) == set(TASKS)
    teacher = Teacher(noise=1.0)
    assert "do not know" in teacher._answer("A table of x", 1)
