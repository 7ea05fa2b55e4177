"""The experiment runs, and its figures are those of what it did."""

import dataclasses

import pytest

from evolute.bench import demonstrations, sft
from evolute.bench.demonstrations import VARIANTS, Lab, Sizes, run
from evolute.engine import EngineConfig
from evolute.envs.chains import read_chain
from evolute.models import load_model
from evolute.types import ConfigError

SMALL = Sizes(skills=32, skill_epochs=1, traces=6, epochs=1, heldout=2)


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    ask = Lab._answers
    monkeypatch.setattr(
        Lab, "_answers", lambda self, model, asked, limit: ask(self, model, asked, 8)
    )


def test_each_variant_has_its_figures():
    found = run(True, sizes=SMALL, variants=("correct", "shuffle-67"), repeats=1)
    named = {name.partition("/")[2] for name in found.figures if "/" in name}
    assert named == {"base", "correct", "shuffle-67", "lora"}
    assert {"accuracy/lora", "kept/shuffle-67", "skills", "coherence/correct"} <= set(found.figures)
    with pytest.raises(ConfigError, match="student of its own"):
        run(True, model="tiny")


def test_variants_are_what_their_names_say(tmp_path, monkeypatch):
    monkeypatch.setattr(Lab, "_train", lambda self, *args: args[0])
    lab = Lab(tmp_path, 0, dataclasses.replace(SMALL, traces=20), EngineConfig())
    sets = {name: lab.variant(name) for name in VARIANTS}
    assert {len(traces) for traces in sets.values()} == {20}
    assert sets["delete-100"][0].steps == () and len(sets["short"][0].steps) >= 7
    for name, traces in sets.items():
        right = [f"{(c := read_chain(t.problem_id)).asked} = {c.values[c.asked]}" for t in traces]
        same = [t.solution == r for t, r in zip(traces, right)]
        assert not any(same) if name == "wrong" else all(same) or name == "digits-100-solution"
    changed = [n for n in VARIANTS if n != "correct" and sets[n] != sets["correct"]]
    assert set(changed) == set(VARIANTS) - {"correct"}
    assert demonstrations.FEW[0] == "correct"


def test_updates_are_timed_on_the_same_examples():
    found = sft.run(True, model=load_model("tiny"), repeats=1)
    tokens = sum(len(s.prompt_ids) + len(s.response_ids) for s in sft.samples(4, 259, 1))
    assert found.figures["tokens"] == tokens and found.figures["tokens_per_s"] > 0
    assert sft.samples(4, 259, 1) == sft.samples(4, 259, 1) != sft.samples(4, 259, 2)
    with pytest.raises(ConfigError, match="no engine"):
        sft.run(True, model="tiny", config=EngineConfig(page_size=4))
