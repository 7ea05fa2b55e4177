"""Ranks that die, hang or are left behind: everybody is told, and no process stays."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evolute.engine import Engine
from evolute.engine.execution.batch import ExecutorLost
from evolute.engine.execution.parallel import executor as parallel
from evolute.types import BackendError, ConfigError, GenerateRequest, RequestError, SamplingParams

LONG = SamplingParams(temperature=0, max_new_tokens=3000, ignore_eos=True)
SETTINGS = {"tensor_parallel": 2, "num_threads": 1, "memory_mb": 8}
SOON_S = 30  # far below every timeout of the engine's own that would hide a hang


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until(is_so, seconds=SOON_S):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def worker_of(engine):
    return engine._core.executor._workers.pids[0]


def strike(engine, sign):
    """Requests in flight, then a signal to rank 1; what they are told."""

    async def everything():
        ones = [
            asyncio.create_task(engine.agenerate(GenerateRequest((1, 2), LONG, id=str(i))))
            for i in range(3)
        ]
        while engine.heartbeat.output_tokens < 6:
            await asyncio.sleep(0.01)
        os.kill(worker_of(engine), sign)
        return await asyncio.wait_for(asyncio.gather(*ones), SOON_S)

    return [output for (output,) in asyncio.run(everything())]


def test_a_dead_rank_ends_the_engine_and_everybody_is_told():
    with Engine("tiny", **SETTINGS) as engine:
        pid = worker_of(engine)
        for output in strike(engine, signal.SIGKILL):
            assert output.finish_reason == "error" and output.token_ids
            assert f"lost one: rank 1 (process {pid}) was ended by signal 9" in output.error
            assert "start it anew" in output.error
        wait_until(lambda: not engine.is_alive)
        with pytest.raises(BackendError, match="lost one"):
            engine.generate([[1, 2, 3]], SamplingParams(max_new_tokens=2))
        with pytest.raises(BackendError, match="lost one"):
            engine.stats()
    assert not is_running(pid)


def test_a_rank_that_dies_while_nobody_waits_is_noticed():
    with Engine("tiny", **SETTINGS) as engine:
        engine.generate([[1, 2, 3]], SamplingParams(max_new_tokens=2))
        os.kill(worker_of(engine), signal.SIGKILL)
        wait_until(lambda: not engine.is_alive)


def test_a_rank_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(parallel, "COLLECTIVE_TIMEOUT_S", 2.0)
    engine = Engine("tiny", **SETTINGS)
    try:
        pid = worker_of(engine)
        for output in strike(engine, signal.SIGSTOP):
            assert "lost one" in output.error and "imed out" in output.error
    finally:
        engine.close()
    assert not is_running(pid)


def test_a_rank_that_fails_says_why():
    with Engine("tiny", **SETTINGS) as engine:
        executor = engine._core.executor
        executor._workers.send(1, "forward", {}, nonsense=1)
        wait_until(lambda: not engine.is_alive)
        with pytest.raises(BackendError, match=r"failed: TypeError: StepBatch.*missing"):
            engine.stats()
        with pytest.raises(ExecutorLost):
            executor.set_num_threads(1)


def test_closing_ends_the_ranks_and_twice_is_once():
    engine = Engine("tiny", **SETTINGS)
    pid, is_up = worker_of(engine), engine.is_alive
    engine.close()
    engine.close()
    assert is_up and not is_running(pid)
    with pytest.raises(RequestError, match="closed"):
        engine.stats()


def test_what_cannot_work_is_refused_at_start():
    for settings, what in (
        ({"tensor_parallel": 3}, "use 1, 2 or 4"),
        ({"tensor_parallel": 2, "executor": "native"}, "set executor to 'torch' or 'auto'"),
        ({"tensor_parallel": 2, "precision": "int8"}, "tensor_parallel = 2 needs 'torch'"),
        ({"tensor_parallel": 2, "sampler": "native"}, "tensor_parallel = 2 needs 'torch'"),
        ({"tensor_parallel": 0}, "at least 1"),
        ({"executor": "native", "precision": "bfloat16"}, "needs engine.executor 'torch'"),
        ({"executor": "native", "device": "cuda"}, "engine.device is 'cuda'"),
        ({"tensor_parallel": 4, "device": "cuda", "memory_mb": 1}, "each rank needs one"),
    ):
        with pytest.raises(ConfigError, match=what):
            Engine("tiny", **settings)


SCRIPT = """
import sys
from evolute.engine import Engine
from evolute.types import SamplingParams
if __name__ == "__main__":
    with Engine("tiny", tensor_parallel=2, num_threads=1) as engine:
        print(engine._core.executor._workers.pids[0], flush=True)
        long = SamplingParams(temperature=0, max_new_tokens=4000, ignore_eos=True)
        engine.generate([[1, 2]], long)
"""


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT], ids=["killed", "ctrl-c"])
def test_no_rank_outlives_the_engine(sign):
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        pid = int(process.stdout.readline())
        assert is_running(pid)
        time.sleep(0.3)
        os.killpg(process.pid, sign)
        _, errors = process.communicate(timeout=SOON_S)
        wait_until(lambda: not is_running(pid))
    if sign == signal.SIGINT:
        assert "KeyboardInterrupt" in errors and "lost one" not in errors
        assert "worker" not in errors, "the other rank was not interrupted"
