"""The experiment runs, its figures are those of what it did, and it goes on where it was."""

import dataclasses

import pytest

from evolute.bench import sft
from evolute.bench.demonstrations import lab as lab_module
from evolute.bench.demonstrations import probes
from evolute.bench.demonstrations.bench import CONTENT, FEW, STRUCTURE, VARIANTS, run
from evolute.bench.demonstrations.figures import figures_of, notes_of
from evolute.bench.demonstrations.lab import Lab, Sizes, Taught
from evolute.bench.demonstrations.probes import Answers
from evolute.engine import EngineConfig
from evolute.envs.walks import read_walk
from evolute.models import load_model
from evolute.types import ConfigError

SMALL = Sizes(width=64, num_layers=1, skills=32, sums=32, mixed=8, traces=6, heldout=2)


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    monkeypatch.setattr(probes, "LONG", 8)


def test_each_variant_has_its_figures_and_a_killed_run_goes_on(tmp_path, monkeypatch):
    variants = ("correct", "shuffle-67", "wrong", "lora")
    told, train = [], lab_module._train
    whole = run(True, sizes=SMALL, variants=variants, repeats=2, keep=tmp_path / "whole")
    named = {name.partition("/")[2] for name in whole.figures if name.startswith("accuracy/")}
    assert named == {"base", *variants} == {n.partition("/")[2] for n in whole.spread}
    assert {"cost/lora", "cost_low/wrong", "coherence/correct"} <= set(whole.figures)

    def killed(model, place, *args):
        if place.name == "wrong" and place.parent.name == "seed-1":
            raise KeyboardInterrupt
        told.append(place.name)
        return train(model, place, *args)

    monkeypatch.setattr(lab_module, "_train", killed)
    with pytest.raises(KeyboardInterrupt):
        run(True, sizes=SMALL, variants=variants, repeats=2, keep=tmp_path / "cut")
    del told[:]
    monkeypatch.setattr(lab_module, "_train", lambda *a: (told.append(a[1].name), train(*a))[1])
    again = run(True, sizes=SMALL, variants=variants, repeats=2, keep=tmp_path / "cut")
    assert told == ["skills", "sums", "mixed", "wrong", "lora"]  # three have nothing left to do
    assert again.figures == whole.figures
    other = dataclasses.replace(SMALL, traces=7)
    with pytest.raises(ConfigError, match="other sizes"):
        run(True, sizes=other, variants=variants, keep=tmp_path / "cut")


def test_sums_are_taught_by_many_small_updates(tmp_path, monkeypatch):
    """In large ones they were not learned (docs/lab.md)."""
    stages = {}

    def train(model, place, talks, sizes, epochs, lr, seed):
        stages[place.name] = (len(talks), sizes.batch_size, lr)
        return model

    monkeypatch.setattr(lab_module, "_train", train)
    monkeypatch.setattr(lab_module, "skill_share", lambda *_: 0.5)
    assert lab_module.teach(tmp_path, SMALL, EngineConfig()).skills == 0.5
    assert stages == {"skills": (32, 32, 5e-3), "sums": (32, 8, 3e-3), "mixed": (8, 8, 3e-3)}


@pytest.mark.parametrize(
    ("given", "message"),
    [({"model": "tiny"}, "student of its own"), ({"variants": ["shufle-67"]}, "shuffle-67")],
)
def test_what_cannot_be_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        run(True, **given)


def test_variants_are_what_their_names_say(tmp_path):
    sizes = dataclasses.replace(SMALL, traces=20)
    taught = Taught(load_model("tiny"), 1.0)
    lab = Lab(tmp_path, 0, sizes, EngineConfig(), taught)
    sets = {name: lab.variant(name) for name in VARIANTS}
    assert {len(traces) for traces in sets.values()} == {20}
    assert sets["delete-100"][0].steps == () and len(sets["short"][0].steps) >= 4
    for name, traces in sets.items():
        right = [f"The end is {read_walk(t.problem_id).values[-1]}" for t in traces]
        same = [t.solution == r for t, r in zip(traces, right)]
        assert not any(same) if name == "wrong" else all(same) or name == "digits-100-solution"
    changed = {n for n in VARIANTS if sets[n] != sets["correct"]}
    assert changed == set(VARIANTS) - {"correct", "lora"}
    assert FEW[0] == "correct" and set(FEW) <= set(VARIANTS)


def answers(*right):
    return Answers([bool(r) for r in right], 9.0, 1.0, 0.0, 0.0, 0.5, 0.5)


def test_costs_are_paired_and_groups_are_compared_over_seeds():
    seeds = [
        {
            "base": answers(0, 0, 0, 0),
            "correct": answers(1, 1, 1, 1),
            "wrong": answers(1, 1, 1, last),
            "digits-100": answers(0, 0, 0, 0),  # told, not counted
            "delete-67": answers(1, 0, 0, 0),
            "insert-67": answers(0, 0, 0, 0),
        }
        for last in (1, 0)
    ]
    found = figures_of(seeds, STRUCTURE, CONTENT)
    assert found["accuracy/delete-67"] == 0.25 and found["kept/wrong"] == 7 / 8
    assert found["accuracy_low/delete-67"] < 0.25 < found["accuracy_high/delete-67"]
    assert found["cost/wrong"] == 1 / 8 and found["cost_low/delete-67"] > 0
    assert found["cost/structure"] == 7 / 8 and found["cost/content"] == 1 / 8
    assert found["structure_above_content"] == 0.75
    assert found["structure_above_content_low"] < 0.75 < found["structure_above_content_high"]
    assert found["structure_to_content"] == 7
    assert 1 < found["structure_to_content_low"] < 7  # above, draws in which content costs nothing
    assert "structure_to_content_high" not in found
    assert notes_of(seeds) == ("8 held-out problems over 2 seeds, one taught student",)
    dull = [{**seeds[0], "base": answers(1, 1, 1, 0), "wrong": answers(1, 1, 1, 1)}]
    assert "little room" in notes_of([{**dull[0], "correct": answers(1, 1, 1, 0)}])[1]
    assert "structure_above_content_low" not in figures_of(dull, STRUCTURE, CONTENT)


def test_the_page_shows_every_variant_with_its_interval():
    from evolute.bench.result import BenchResult
    from evolute.cli.study_page import study_page

    seeds = [{"base": answers(0, 0), "correct": answers(1, 1), "shuffle-100": answers(0, 1)}] * 2
    figures = figures_of(seeds, STRUCTURE, CONTENT)
    config = {"variants": ["correct", "shuffle-100"]}
    text = study_page(BenchResult("demonstrations", config, figures, 2, {}, notes=("4 problems",)))
    assert text.count("<svg") == 2 and "4 problems" in text
    assert text.count(">shuffle-100<") == 3 and text.count(">base<") == 3  # both plots, the table


def test_the_folder_is_refused_elsewhere(tmp_path):
    from typer.testing import CliRunner

    from evolute.cli.bench import app

    refused = CliRunner().invoke(app, ["training", "--keep", str(tmp_path)])
    assert isinstance(refused.exception, ConfigError) and "--keep" in str(refused.exception)
    assert not (tmp_path / "sizes.json").exists()


def test_updates_are_timed_on_the_same_examples():
    found = sft.run(True, model=load_model("tiny"), repeats=1)
    tokens = sum(len(s.prompt_ids) + len(s.response_ids) for s in sft.samples(4, 259, 1))
    assert found.figures["tokens"] == tokens and found.figures["tokens_per_s"] > 0
    assert sft.samples(4, 259, 1) == sft.samples(4, 259, 1) != sft.samples(4, 259, 2)
    with pytest.raises(ConfigError, match="no engine"):
        sft.run(True, model="tiny", config=EngineConfig(page_size=4))


def test_an_adapter_reads_the_traces_more_often_and_at_a_rate_of_its_own(tmp_path, monkeypatch):
    made = {}

    def train(model, place, traces, sizes, epochs, lr, seed, lora=None):
        made[place.name] = (epochs, lr, lora is not None)
        return model

    answers = Answers([True], *[0.0] * 6)
    monkeypatch.setattr(lab_module, "_train", train)
    monkeypatch.setattr(lab_module, "ask", lambda *_: answers)
    taught = Taught(load_model("tiny"), 1.0)
    lab = Lab(tmp_path, 0, SMALL, EngineConfig(), taught)
    for name in ("correct", "lora"):
        lab.answers(name)
    assert made == {
        "correct": (SMALL.epochs, SMALL.lr, False),
        "lora": (SMALL.lora_epochs, SMALL.lora_lr, True),
    }
    assert SMALL.lora_epochs != SMALL.epochs
