"""A supervised run: it learns, it resumes to the bit, and the engine serves what it made."""

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from evolute.engine import Engine
from evolute.models import LoraConfig, load_model, load_peft
from evolute.train import checkpoint
from evolute.train.sft import SftConfig, SftController
from evolute.types import CheckpointError, ConfigError, SamplingParams, TrainingError

RECIPES = Path(__file__).parents[2] / "recipes"
TINY = load_model("tiny")
CONFIG = SftConfig(
    model="tiny",
    data=(str(RECIPES / "tiny-sft.jsonl"),),
    epochs=2,
    batch_size=6,
    checkpoint_every=2,
)
STEPS = 7  # 40 examples


def weights(controller):
    return {name: p.detach().clone() for name, p in controller.policy.named_parameters()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def lines(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("method", ["lora", "full"])
def test_killed_at_any_step_it_goes_on_to_the_same_bits(tmp_path, monkeypatch, method):
    config = dataclasses.replace(CONFIG, method=method)
    whole = SftController(config, tmp_path / "whole", TINY)
    assert whole.run() == STEPS - 1
    final, records = weights(whole), lines(tmp_path / "whole")
    for at in range(STEPS):
        run_dir = tmp_path / str(at)
        first = SftController(config, run_dir, TINY)
        update, count = first.trainer.update, []

        def torn(samples, update=update, count=count, at=at):
            count.append(1)
            if len(count) > at:
                raise Killed
            return update(samples)

        monkeypatch.setattr(first.trainer, "update", torn)
        with pytest.raises(Killed):
            first.run()
        second = SftController(config, run_dir, TINY)
        second.run()
        assert same(weights(second), final), at
        kept = [{k: v for k, v in r.items() if k != "update_s"} for r in lines(run_dir)]
        assert kept == [{k: v for k, v in r.items() if k != "update_s"} for r in records]


def test_a_run_that_was_stopped_has_a_checkpoint_and_one_that_is_done_does_nothing(tmp_path):
    seen = []
    first = SftController(CONFIG, tmp_path, TINY)
    assert first.run(seen.append, lambda: len(seen) == 3) == 2
    second = SftController(CONFIG, tmp_path, TINY)
    assert second.run() == STEPS - 1
    third = SftController(CONFIG, tmp_path, TINY)
    assert third.run(lambda report: pytest.fail("nothing is left")) == STEPS - 1
    assert same(weights(second), weights(third))


def test_other_data_is_refused_on_resume(tmp_path):
    rows = (RECIPES / "tiny-sft.jsonl").read_text().splitlines(keepends=True)
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(rows))
    config = dataclasses.replace(CONFIG, data=(str(data),))
    SftController(config, tmp_path / "run", TINY).run()
    data.write_text("".join(rows[::-1]))
    with pytest.raises(CheckpointError, match="other settings or data"):
        SftController(config, tmp_path / "run", TINY).run()


def test_a_loss_that_is_not_finite_is_not_applied(tmp_path, monkeypatch):
    run = SftController(CONFIG, tmp_path, TINY)
    before = weights(run)
    scores = run.policy.scores

    def broken(batch, temperature):
        tokens, found = scores(batch, temperature)
        return tokens, dataclasses.replace(found, logprobs=found.logprobs * float("nan"))

    monkeypatch.setattr(run.policy, "scores", broken)
    with pytest.raises(TrainingError, match="not finite"):
        run.run()
    assert same(weights(run), before)
    assert checkpoint.load(tmp_path / "checkpoints", run.trainer, run.digest) == -1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ()}, "names no file"),
        ({"max_tokens": 9999}, "context of tiny"),
        ({"max_tokens": 20}, "raise max_tokens"),
    ],
)
def test_data_that_cannot_be_used_is_refused_before_anything_starts(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        SftController(dataclasses.replace(CONFIG, **changes), tmp_path / "run", TINY)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 0},
        {"mix": (1.0, 2.0)},
        {"method": "full", "lora": LoraConfig(rank=3)},
        {"method": "full", "precision": "mixed"},
        {"fused": False, "precision": "bfloat16"},
        {"max_tokens": -1},
    ],
)
def test_settings_that_would_do_nothing_are_refused(changes):
    with pytest.raises(ConfigError):
        dataclasses.replace(CONFIG, **changes)


def test_the_recipe_learns_and_the_engine_loads_its_adapter(tmp_path):
    command = [sys.executable, "-m", "evolute.cli.main", "train", "sft"]
    options = [str(RECIPES / "tiny-sft.toml"), "--run-dir", str(tmp_path / "run"), "--json"]
    run = subprocess.run([*command, *options], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout.splitlines()[-1])
    losses = [record["loss"] for record in lines(tmp_path / "run")]
    assert report["loss"] == losses[-1] < 0.7 * losses[0]
    with Engine(TINY, page_size=4) as engine:
        greedy = SamplingParams(temperature=0.0, max_new_tokens=8)
        (base,) = engine.generate(["abc"], greedy)
        engine.load_adapter("trained", report["adapter"])
        (changed,) = engine.generate(["abc"], greedy, adapter="trained")
    assert base.token_ids != changed.token_ids


def test_all_weights_become_a_model_directory_that_the_engine_serves(tmp_path):
    config = dataclasses.replace(CONFIG, method="full", epochs=1)
    run = SftController(config, tmp_path, TINY)
    run.run()
    trained = load_model(str(run.save_result()))
    for name, tensor in run.policy.base_weights().items():
        assert torch.equal(trained.weights.dense(name), tensor), name


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_killed_by_the_system_again_and_again_it_ends_with_the_same_adapter(tmp_path):
    """SIGKILL after each new line of metrics, wherever the process then is."""
    command = [sys.executable, "-m", "evolute.cli.main", "train", "sft"]
    options = ["--epochs", "3", "--checkpoint_every", "2"]

    def start(name):
        place = ["--run-dir", str(tmp_path / name)]
        return subprocess.Popen(
            [*command, str(RECIPES / "tiny-sft.toml"), *place, *options],
            cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    assert start("whole").wait(120) == 0
    metrics, kills = tmp_path / "cut" / "metrics.jsonl", 0
    for wanted in (1, 4, 5, 9):
        process = start("cut")
        while process.poll() is None:
            if metrics.exists() and metrics.read_bytes().count(b"\n") >= wanted:
                process.kill()
            time.sleep(0.01)
        kills += process.returncode < 0
    assert start("cut").wait(120) == 0
    whole, cut = (load_peft(tmp_path / name / "adapter") for name in ("whole", "cut"))
    assert kills >= 2 and whole.fingerprint() == cut.fingerprint()
    seen = [(record["step"], record["examples"]) for record in lines(tmp_path / "cut")]
    assert seen == [(record["step"], record["examples"]) for record in lines(tmp_path / "whole")]
    assert len(seen) == 12 and all(examples for _, examples in seen)
