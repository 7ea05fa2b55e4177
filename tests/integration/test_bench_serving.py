"""`evolute bench serving` on the tiny model, over HTTP, as a user runs it."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evolute.bench import WorkItem, save_workload
from evolute.bench.load import own_server
from evolute.cli.main import main
from evolute.models import LoraConfig, LoraWeights, load_model, save_peft
from evolute.types import BackendError


@pytest.fixture
def bench(monkeypatch, capsys, tmp_path):
    """Runs the bench in an empty folder; gives the exit code and what stood on stdout."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["evolute", "bench", "serving", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0, capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def server():
    with own_server("tiny", ["memory_mb=16"]) as running:
        yield running


def result_of(out):
    return json.loads(out.splitlines()[-1])


def test_our_own_server_answers_everything_with_known_counts(bench, tmp_path):
    words = "--http --model tiny --workload shared --scale 0.1 --concurrency 4 --repeats 2"
    words += " --set memory_mb=16 --json --out r.json --plot p.html --slo-latency-ms 60000"
    code, out = bench(*words.split())
    assert code == 0
    result = result_of(out)
    figures = result["figures"]
    assert (figures["requests"], figures["answered"], result["n"]) == (6, 6, 2)
    assert figures["output_tokens"] == 6 * 3
    assert figures["prompt_tokens"] == 6 * (51 + 3)
    assert figures["good_frac"] == 1
    assert 0 < figures["cached_frac"] <= figures["cached_frac_optimum"]
    assert result["spread"]["cached_tokens"][0] > 0
    assert figures["start_s"] > 0 and figures["peak_rss_mb"] > 10
    saved = json.loads((tmp_path / "r.json").read_text())
    assert saved["figures"] == figures
    assert [len(one) for one in saved["rounds"]["evolute"]] == [6, 6]
    page = (tmp_path / "p.html").read_text()
    assert page.count("<svg") == 5 and "<script" not in page


@pytest.mark.parametrize(
    "words",
    [
        ("--workload", "sglang-multiturn_short", "--scale", "0.15", "--rate", "40"),
        ("--workload", "vtc-overload", "--scale", "0.02", "--speed", "4"),
        ("--workload", "slora-uniform", "--scale", "0.02", "--speed", "4"),
        ("--workload", "sglang-json", "--requests", "3", "--scale", "0.2"),
        ("--workload", "batch", "--scale", "0.1", "--endpoint", "chat", "--no-stream"),
        ("--workload", "single", "--prompts", "text", "--scale", "0.2"),
    ],
    ids=lambda words: words[1],
)
def test_a_running_server_answers_each_kind_of_workload(bench, server, words):
    vocab = () if "text" in words or "chat" in words else ("--vocab-size", 256)
    code, out = bench("--url", server.url, *words, *vocab, "--json")
    result = result_of(out)
    assert code == 0 and result["figures"]["failed"] == 0
    assert result["figures"]["output_tokens"] > 0
    assert result["config"]["servers"][0]["model"] == "tiny"


def test_tenants_are_told_apart(bench, server):
    words = "--workload vtc-weighted --scale 0.01 --speed 4 --vocab-size 256"
    code, out = bench("--url", server.url, *words.split())
    assert code == 0
    lines = [line.split()[:2] for line in out.splitlines() if line.strip().startswith("client-")]
    assert lines == [["client-0", "5"], ["client-1", "5"], ["client-2", "8"], ["client-3", "10"]]


def test_two_servers_are_compared(bench, server):
    a, b = f"a={server.url}", f"b={server.url}/v1"
    code, out = bench("--url", a, "--url", b, "--workload", "single", "--scale", "0.1",
                      "--vocab-size", 256, "--repeats", 2)  # fmt: skip
    assert code == 0
    (line,) = [line for line in out.splitlines() if "a / b" in line and "latency_p50_s" in line]
    assert " to " in line


def test_a_recording_is_played(bench, server, tmp_path):
    items = [WorkItem(f"r{i}", (20 + i, 30, 40), 5, 0.01 * i) for i in range(4)]
    save_workload(items, tmp_path / "w.jsonl")
    code, out = bench("--url", server.url, "--workload", "w.jsonl", "--vocab-size", 256, "--json")
    assert code == 0 and result_of(out)["figures"]["output_tokens"] == 20
    assert result_of(out)["config"]["loop"] == "open loop"


def test_requests_that_are_all_refused_are_an_error_with_the_reason(bench, server):
    """Ids beyond the vocabulary: each refused, counted, and the exit code says so."""
    code, out = bench("--url", server.url, "--workload", "batch", "--scale", "0.05",
                      "--warmup", 0)  # fmt: skip
    assert code == 1
    assert "http_400" in out and "out-of-vocabulary" in out


def test_ctrl_c_prints_what_was_measured_and_names_what_was_not(server):
    command = [sys.executable, "-m", "evolute.cli.main", "bench", "serving", "--workload", "single"]
    command += ["--url", f"a={server.url}", "--url", f"b={server.url}", "--vocab-size", "256"]
    command += ["--requests", "2000", "--concurrency", "1"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        for line in run.stderr:
            if re.search(r"a 1/1: \d", line):
                break
        time.sleep(0.5)
        run.send_signal(signal.SIGINT)
        out, _ = run.communicate(timeout=60)
    assert run.returncode == 130
    assert re.search(r"interrupted after \d+ of 2000", out)
    assert "nothing was measured" in out.partition("\nb\n")[2]


def children(pid):
    """Processes whose parent is `pid`."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_bench_that_is_terminated_takes_its_server_with_it():
    command = [sys.executable, "-m", "evolute.cli.main", "bench", "serving", "--http"]
    command += ["--model", "tiny", "--workload", "single", "--requests", "5000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        assert "1/5000" in run.stderr.readline()
        (server,) = children(run.pid)
        run.terminate()
        assert run.wait(60) == 128 + signal.SIGTERM
    assert not Path(f"/proc/{server}").exists()


def test_adapters_of_our_own_server_answer(bench, tmp_path):
    weights = LoraWeights.init(LoraConfig(rank=4), load_model("tiny").config)
    save_peft(weights, tmp_path / "one", "tiny")
    words = "--http --model tiny --workload slora-uniform --scale 0.02 --speed 4 --json"
    code, out = bench(*words.split(), "--adapter", f"one={tmp_path / 'one'}")
    assert code == 0 and result_of(out)["figures"]["failed"] == 0
    assert not any("base model" in note for note in result_of(out)["notes"])


def test_a_server_that_cannot_start_tells_why():
    with pytest.raises(BackendError, match=r"no model 'nothing'"), own_server("nothing", []):
        pass
