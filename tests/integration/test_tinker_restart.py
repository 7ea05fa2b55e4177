"""kill -9 of a training server in the midst of work: every future ends, and the model is the one
that an undisturbed run gives, to the bit."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from postgres import postgres
from tinker_client import Client, text_datum

pytestmark = pytest.mark.slow
DATA = [[text_datum(f"text number {i} of {n} for it") for n in range(6)] for i in range(12)]


class Patient:
    """As the published client: tries again while nobody serves."""

    def __init__(self, url):
        fresh = httpx.Limits(max_keepalive_connections=0)
        self.http = httpx.Client(base_url=url, timeout=60, trust_env=False, limits=fresh)
        self.retries = 0

    def post(self, path, **given):
        end = time.monotonic() + 90
        while time.monotonic() < end:
            try:
                answer = self.http.post(path, **given)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code != 503:
                return answer
            self.retries += 1
            time.sleep(0.1)
        raise AssertionError("nobody serves")


def start(directory, database=""):
    words = [sys.executable, "-m", "evolute.cli.main", "serve", "--model", "tiny", "--port", "0"]
    settings = ["num_threads=1", "memory_mb=32", f"train.directory={directory}", "train.poll_s=1"]
    settings += [f"train.database={database}"] * bool(database)
    settings.append("train.look_ahead=1")  # else what is computed together depends on time
    process = subprocess.Popen(
        [*words, "--train", *(word for one in settings for word in ("--set", one))],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    line = process.stdout.readline()
    assert line.startswith("ready "), line
    return process, line.split()[1]


def stop(process):
    process.send_signal(signal.SIGTERM)
    with process:  # closes its pipe
        process.wait(timeout=60)


def work(url, kill=()):
    """The losses of a run, and of a sample at its end; `kill(i)` is called in step i."""
    client = Client(Patient(url))
    client.begin()
    model = client.model(rank=4, seed=1)
    losses = []
    for i, data in enumerate(DATA):
        futures = [client.train(model, data[:3]), client.train(model, data[3:])]
        stepped = client.step(model)
        if i in dict(kill):
            dict(kill)[i]()
        losses += [client.result(f)["metrics"]["loss:sum"] for f in futures]
        assert "metrics" in client.result(stepped)
    sampler = client.sampler(model, sampling_session_seq_id=0)["sampling_session_id"]
    future = client.sample(b"text", sampler=sampler, n=4)
    if -1 in dict(kill):
        dict(kill)[-1]()
    return losses, client.result(future)["sequences"], client.http.retries


def child_of(pid):
    (found,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(found)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_killed_server_finishes_what_was_asked(tmp_path, kind):
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(postgres()).url if kind == "postgres" else ""
        _calm_and_killed_are_one(tmp_path, database)


def _calm_and_killed_are_one(tmp_path, database):
    process, url = start(tmp_path / "calm")
    try:
        calm = work(url)
    finally:
        stop(process)
    process, url = start(tmp_path / "killed", database)

    def kill():
        os.kill(child_of(process.pid), signal.SIGKILL)

    try:
        killed = work(url, kill=((2, kill), (7, kill), (-1, kill)))
    finally:
        stop(process)
    assert killed[2] > calm[2], "nobody was killed"
    assert killed[0] == calm[0]
    assert killed[1] == calm[1]


@pytest.mark.timeout(120)
def test_settings_are_refused_with_the_reason(tmp_path):
    serve = [sys.executable, "-m", "evolute.cli.main", "serve", "--model", "tiny", "--port", "0"]
    for words, told in (
        (["--set", "train.max_rank=4"], "--train"),
        (["--train", "--set", "precision=int8"], "float32"),
        (["--train", "--replicas", "2"], "--replicas"),
        (["--train", "--set", "train.max_rnak=4"], "max_rank"),
    ):
        words = [*serve, "--no-supervise", *words]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert told in done.stderr, done.stderr
