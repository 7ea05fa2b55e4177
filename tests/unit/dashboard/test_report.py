"""A report says what a run did, what is missing, and depends on nothing else."""

import html.parser
import json
import math
import re

import pytest

from evolute.dashboard import write_report

CONFIG = """eval_count = 128
[train]
model = "smollm2-135m"
task = "addition-3"
steps = 8
[train.optimizer]
lr = 0.0005
[tune]
trials = 4
"""
PROBLEM = "What is 312 + 98? Answer with the number only."


def step(number, **more):
    gain = 1 - math.exp(-0.4 * number)
    return {
        "kind": "train_step",
        "step": number,
        "reward_mean": 0.15 + 0.6 * gain,
        "reward_low": 0.1 + 0.6 * gain,
        "reward_high": 0.2 + 0.6 * gain,
        "accuracy_mean": 0.12 + 0.6 * gain,
        "tokens": 700 + number,
        "failures": {"RewardError": 1} if number == 2 else {},
        "fingerprint": f"{number:x}" * 64,
        "version": number + 2,
        "canary_abs_diff": 4e-6,
        "loss": -0.01 / (number + 1),
        "grad_norm": 0.4 - 0.03 * number,
        "entropy": 1.2 * math.exp(-number / 4),
        "logprob_abs_diff_mean": 4e-4 + 1e-5 * number,
        "mismatch_kl": 2e-5,
        "rollout_s": 3.1,
        "update_s": 8.2,
        "publish_s": 0.3,
        **more,
    }


def ratio(mean, low, high, n=3):
    return {"mean": mean, "low": low, "high": high, "n": n}


def trial(number, proposer, change, verdict, why, measured=None):
    return {"id": number, "parent": 0, "proposer": proposer, "change": change, "judge": "ab",
            "verdict": verdict, "why": why, "ratio": measured, "seconds": 21.0}  # fmt: skip


METRICS = [
    {"kind": "eval", "name": "base", "mean": 0.172, "low": 0.117, "high": 0.246, "n": 128},
    {"kind": "phase", "name": "base", "seconds": 14.0},
    *(step(n) for n in range(8)),
    {"kind": "phase", "name": "train", "seconds": 96.0},
    {"kind": "eval", "name": "trained", "mean": 0.711, "low": 0.627, "high": 0.782, "n": 128},
    {"kind": "phase", "name": "trained", "seconds": 12.0},
    {"kind": "difference", "mean": 0.539, "low": 0.45, "high": 0.625},
    {"kind": "throughput", "ratio": ratio(1.31, 1.22, 1.41),
     "best": {"page_size": 16, "policy": "lpm"}, "why": "1.31 times the baseline",
     "applied": {"policy": "lpm"}, "needs_restart": {"page_size": 16},
     "before_tokens_per_s": 1234.5, "after_tokens_per_s": 1617.2},
    {"kind": "phase", "name": "tune", "seconds": 150.0},
    {"kind": "poll", "requests": 270, "errors": 0, "max_gap_s": 1.9, "last_error": ""},
]  # fmt: skip
LEDGER = [
    trial(0, "baseline", {}, "keep", "the system as it is"),
    trial(1, "random", {"policy": "fcfs"}, "discard", "noise", ratio(0.99, 0.93, 1.05)),
    trial(2, "optuna", {"page_size": 16}, "keep", "faster", ratio(1.29, 1.2, 1.38)),
    trial(3, "model", {"max_running": 2}, "discard", "0.6", ratio(0.6, 0.0, math.inf, 1)),
    trial(4, "random", {"precision": "quantized"}, "cheat", "its answers differ"),
]
SAMPLES = [
    {"step": n, "problem_id": "p", "prompt": PROBLEM, "text": text, "reward": reward,
     "outcome": "done"}
    for n, text, reward in [(0, "<b>I think\x1f 12</b>", 0.0), (3, "middle", 0.5), (7, "410", 1.0)]
]  # fmt: skip


@pytest.fixture
def run_dir(tmp_path):
    directory = tmp_path / "demo"
    directory.mkdir()
    (directory / "config.toml").write_text(CONFIG)
    for name, records in (("metrics", METRICS), ("ledger", LEDGER), ("samples", SAMPLES)):
        lines = [json.dumps(record) + "\n" for record in records]
        (directory / f"{name}.jsonl").write_text("".join(lines))
    return directory


def text_of(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.split("</style>")[1]))


def test_a_whole_run_is_told(run_dir):
    text = text_of(write_report(run_dir).read_text())
    for told in (
        "17.2% (11.7% to 24.6%)",
        "270 requests",
        "71.1% (62.7% to 78.2%)",
        "+53.9 points (+45.0 to +62.5)",
        "the interval is above zero",
        "The bounds hold",
        "1.31 times (1.22 to 1.41)",
        "Before: 1,234 output tokens/s, after: 1,617.",
        "page_size = 16, policy = lpm",
        "In force at once: policy = lpm.",
        "needs a restart with [engine] page_size = 16",
        "No error, and no gap above 5 s.",
        "RewardError",
        "evolute loop --config runs/demo/config.toml --name demo-again",
        "addition-3",
        "7777777777777777",
    ):
        assert told in text, told
    assert "Not finished" not in text


def test_the_reward_has_its_interval(run_dir):
    assert write_report(run_dir).read_text().count('class="band f0"') == 1


def test_a_step_without_contrast_is_a_gap_and_not_a_zero(tmp_path):
    idle = {"entropy": 0.0, "grad_norm": 0.0, "loss": 0.0}
    steps = [step(0), step(1, **idle, effective_token_frac=0.0), step(2, effective_token_frac=1.0)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(s) + "\n" for s in steps))
    page = write_report(tmp_path).read_text()
    (curve,) = re.findall(
        r"entropy \(nats a token\).*?class=\"line s0\" d=\"M([^\"]+)\"", page, re.S
    )
    assert curve.count("L") == 1, "two points, not three"


def test_the_page_needs_nothing_from_elsewhere(run_dir):
    page = write_report(run_dir).read_text()
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)


def test_the_page_is_well_formed(run_dir):
    class Balance(html.parser.HTMLParser):
        def __init__(self):
            super().__init__()
            self.open = []

        def handle_starttag(self, tag, attrs):
            if tag != "meta":
                self.open.append(tag)

        def handle_startendtag(self, tag, attrs):
            pass

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    parser = Balance()
    parser.feed(write_report(run_dir).read_text())
    assert parser.open == []


def test_what_a_model_says_cannot_become_markup(run_dir):
    page = write_report(run_dir).read_text()
    assert "&lt;b&gt;I think\ufffd 12&lt;/b&gt;" in page


def test_samples_are_the_first_and_the_last_step(run_dir):
    text = text_of(write_report(run_dir).read_text())
    assert "410" in text and "I think" in text and "middle" not in text


def test_an_empty_directory_gives_a_report_of_what_is_missing(tmp_path):
    text = text_of(write_report(tmp_path).read_text())
    for told in ("No phase has finished", "Not measured yet", "No trial", "config.toml is missing"):
        assert told in text


@pytest.mark.parametrize("length", range(0, len(METRICS) + 1))
def test_a_run_cut_anywhere_is_reported(run_dir, length):
    lines = [json.dumps(record) + "\n" for record in METRICS[:length]]
    (run_dir / "metrics.jsonl").write_text("".join(lines) + '{"kind": "tr')
    (run_dir / "ledger.jsonl").unlink()
    text = text_of(write_report(run_dir).read_text())
    is_whole = length >= len(METRICS) - 1
    assert ("Not finished" in text) is not is_whole
    assert is_whole or "evolute loop --resume demo" in text


@pytest.mark.parametrize("record", [r for r in METRICS if r["kind"] != "phase"])
def test_a_record_may_lack_any_field(run_dir, record):
    for left_out in [key for key in record if key not in ("kind", "step")]:
        poorer = {key: value for key, value in record.items() if key != left_out}
        (run_dir / "metrics.jsonl").write_text(json.dumps(poorer) + "\n")
        text = text_of(write_report(run_dir).read_text())
        assert "trial 3" in text and "Not finished" in text, left_out  # the rest is still told


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "text", {}])
def test_a_strange_number_leaves_a_gap_and_not_a_crash(run_dir, value):
    strange = [step(n, entropy=value if n == 1 else 1.0, mismatch_kl=value) for n in range(3)]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(s) + "\n" for s in strange))
    page = write_report(run_dir).read_text()
    assert not re.search(r'[ "](nan|inf)\b', page.split("</style>")[1])


def test_a_step_done_again_after_a_kill_counts_once(run_dir):
    twice = [step(0), step(1, version=77), step(1, version=88)]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(s) + "\n" for s in twice))
    text = text_of(write_report(run_dir).read_text())
    assert "2 steps of 8" in text and " 88 " in text and " 77 " not in text


def test_a_broken_bound_is_said(run_dir):
    (run_dir / "metrics.jsonl").write_text(json.dumps(step(0, mismatch_kl=0.5)) + "\n")
    assert "The bounds do not hold" in text_of(write_report(run_dir).read_text())


def test_a_single_pair_is_drawn_without_an_interval(run_dir):
    page = write_report(run_dir).read_text()
    assert "trial 3: 0.6 (0.6 to 0.6)" in page and "0.60 (one pair)" in page


def test_an_unclear_gain_is_not_sold_as_one(run_dir):
    unclear = {"kind": "difference", "mean": 0.02, "low": -0.05, "high": 0.09}
    (run_dir / "metrics.jsonl").write_text("".join(
        json.dumps(r) + "\n" for r in [*METRICS, unclear]))  # fmt: skip
    assert "the interval is not clear of zero" in text_of(write_report(run_dir).read_text())
