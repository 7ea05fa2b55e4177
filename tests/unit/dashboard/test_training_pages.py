"""A run's pages say what its files say: every rollout, every token, while the files grow."""

import dataclasses
import json
import os

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from evolute.dashboard.training import training_router
from evolute.dashboard.training.advantages import advantages, why_not
from evolute.dashboard.training.entries import Rollouts
from evolute.dashboard.training.routes import pieces
from evolute.dashboard.training.tokens import tokens_of
from evolute.models.tiny import tiny_tokenizer
from evolute.server.errors import install
from evolute.train import TrainConfig
from evolute.train.rollouts.journal import Journal
from evolute.types import Outcome, Rollout, TrainingSample, VersionSegment
from evolute.types.settings import load, to_toml

HOSTILE = "<script>alert(1)</script>"


def sample(text="4", world="", version=3):
    said, other = tuple(text.encode()), tuple(world.encode())
    mask = (True,) * len(said) + (False,) * len(other)
    segments = (VersionSegment(version, len(mask)),)
    return TrainingSample(tuple(b"2+2?"), said + other, mask, (-0.5,) * len(mask), segments)


def rollout(group=0, index=0, reward=1.0, samples=None, **fields):
    done = {"outcome": Outcome.DONE, "text": "4"} | fields
    made = (sample(),) if samples is None else samples
    return Rollout(f"problem {group}", group, index, reward, samples=made, **done)


def client(run_dir):
    app = FastAPI()
    install(app)
    app.include_router(training_router(run_dir, tiny_tokenizer()))
    return TestClient(app)


@pytest.fixture
def run_dir(tmp_path):
    config = load(TrainConfig, overrides=["model=tiny", "algorithm.advantage=dr_grpo"])
    (tmp_path / "config.toml").write_text(to_toml(config))
    journal = Journal(tmp_path / "rollouts.jsonl")
    hostile = rollout(1, 0, 0.0, (sample(HOSTILE, "tool says 4"),), text=HOSTILE)
    failed = rollout(1, 1, 0.0, (), outcome=Outcome.FAILED, failure="ToolError", text="")
    journal.append(0, [rollout(0, 0, 1.0), rollout(0, 1, 0.0), hostile, failed])
    journal.append(1, [rollout(0, 0, 0.25)])
    record = {"kind": "train_step", "step": 0, "reward_mean": 0.5, "tokens": 9}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    return tmp_path


def test_pages_lead_from_the_run_to_each_token(run_dir):
    http = client(run_dir)
    overview = http.get("/run")
    assert 'href="run/steps/1"' in overview.text and "reward of the rollouts" in overview.text
    assert "refresh" in overview.text  # its files changed just now
    listed = http.get("/run/steps/0")
    assert 'href="0/1/1"' in listed.text and "ToolError" in listed.text
    one = http.get("/run/steps/0/0/0")
    assert "advantage +0.5" in one.text and "weights 3" in one.text
    assert "log-probability -0.5000" in one.text and 'class="up"' in one.text
    assert 'class="down"' in http.get("/run/steps/0/0/1").text
    for answer in (overview, listed, one):
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(("lock", "goes_on"), [("own", True), ("4194305", False), ("", True)])
def test_a_run_goes_on_while_its_process_lives(run_dir, lock, goes_on):
    (run_dir / ".lock").write_text(str(os.getpid()) if lock == "own" else lock)
    assert ("http-equiv" in client(run_dir).get("/run").text) == goes_on


def test_what_the_world_said_has_no_advantage_and_nothing_runs(run_dir):
    http = client(run_dir)
    listed, page = (http.get(path).text for path in ("/run/steps/0", "/run/steps/0/1/0"))
    assert "<script" not in listed + page and "alert(1)" in listed
    assert page.count('class="world"') == len("tool says 4") + 1  # and once in the key
    assert "before the model had said anything" in http.get("/run/steps/0/1/1").text


@pytest.mark.parametrize("path", ["/run/steps/9", "/run/steps/0/7/0", "/run/steps/0/0/9"])
def test_what_is_not_there_is_a_404(run_dir, path):
    answer = client(run_dir).get(path)
    assert answer.status_code == 404 and "step" in answer.json()["error"]["message"]


def test_an_empty_directory_and_one_without_settings(tmp_path, run_dir):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "None yet" in client(empty).get("/run").text
    (run_dir / "config.toml").write_text("model = 'tiny'\nnonsense = 3\n")
    assert "settings cannot be read" in client(run_dir).get("/run/steps/0").text


def test_the_journal_is_read_as_it_grows_and_anew_when_it_was_cut(run_dir):
    path = run_dir / "rollouts.jsonl"
    journal, found = Journal(path), Rollouts(path)
    assert found.steps() == [0, 1] and len(found.of_step(0)) == 4
    old = found.of_step(1)[0]
    with path.open("a") as file:
        file.write('{"step": 2, "torn')
    assert found.steps() == [0, 1]
    journal.cut_after(0)  # as a run does that goes on after a kill
    journal.append(1, [rollout(5, 0, 0.5), rollout(5, 1, 0.5)])
    assert [e.group for e in found.of_step(1)] == [5, 5] and found.steps() == [0, 1]
    with pytest.raises(LookupError, match="begun again"):
        found.read(old)
    assert found.read(found.of_step(1)[1]) == rollout(5, 1, 0.5)


def test_advantages_are_the_trainers(run_dir):
    config = load(TrainConfig, overrides=["model=tiny", "algorithm.advantage=rloo"])
    two = (sample("ab"), sample("c", "x"))
    given = [rollout(0, 0, 1.0, two), rollout(0, 1, 0.0), rollout(0, 2, 0.5)]
    found = advantages(given, config)
    assert found[0, 0, 0] == pytest.approx((0.75, 0.75)) and found[0, 0, 1] == pytest.approx(
        (0.75,)
    )
    assert found[0, 1, 0] == pytest.approx((-0.75,)) and found[0, 2, 0] == pytest.approx((0.0,))
    gae = load(TrainConfig, overrides=["model=tiny", "algorithm.advantage=gae"])
    assert "critic" in why_not(gae)
    with pytest.raises(ValueError, match="critic"):
        advantages(given, gae)


def test_every_token_has_what_is_its_own():
    made = dataclasses.replace(
        sample("abc", "de"), weight_versions=(VersionSegment(1, 1), VersionSegment(2, 4))
    )
    tokens = tokens_of(made, list("abcde"), (0.1, 0.2, 0.3))
    assert [t.advantage for t in tokens] == [0.1, 0.2, 0.3, None, None]
    assert [t.version for t in tokens] == [1, 2, 2, None, None]
    assert [t.logprob for t in tokens] == [-0.5] * 3 + [None] * 2


@given(st.lists(st.integers(0, 255), max_size=12), st.text(max_size=6))
def test_pieces_together_are_the_text(noise, text):
    ids = [*noise, *text.encode()]
    found = pieces(ids, lambda token: bytes([token]))
    assert len(found) == len(ids)
    assert "".join(found) == bytes(ids).decode("utf-8", "replace")
