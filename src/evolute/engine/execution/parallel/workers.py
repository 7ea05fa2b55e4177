"""The processes of ranks 1 to N - 1: begun, spoken to, watched and ended.

    Workers(count, on_lost)         they run; nothing is asked of them yet
    send(rank, op, arrays, **meta)  to one; raises ExecutorLost
    receive(rank, op, timeout_s)    its answer; raises ExecutorLost
    lose(why), lost                 end all and say why, once; from any thread
    close()                         ask them to end, wait, and end those that do not

A worker ends when its socket's other end does, so no process outlives the engine's, however that
ends. When one dies the others are ended too: they would wait for it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from evolute.engine.execution.batch import ExecutorLost
from evolute.engine.execution.parallel.channel import Array, Channel, Closed, Message

logger = logging.getLogger(__name__)
MODULE = "evolute.engine.execution.parallel.worker"
END_S = 5.0  # to end by itself
KILL_S = 10.0
LEARN_S = 3.0  # between the failure of a sum and the news of a worker's end


class Workers:
    """Ranks are numbered from 1, as rank 0 is the engine's own process."""

    def __init__(self, count: int, num_threads: int, on_lost: Callable[[ExecutorLost], None]):
        """`on_lost` is called at most once, on some thread. Each may use `num_threads`."""
        self.lost: ExecutorLost | None = None
        self._on_lost, self._is_closed = on_lost, False
        self._lock, self._is_lost = threading.Lock(), threading.Event()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._channels: list[Channel] = []
        try:
            for rank in range(1, count + 1):
                self._begin(rank, num_threads)
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def send(
        self, rank: int, op: str, arrays: Mapping[str, Array] | None = None, /, **meta: Any
    ) -> None:
        try:
            self._channels[rank - 1].send(op, arrays, **meta)
        except OSError as error:
            raise self.lose(f"{self._name(rank)} takes no commands: {error}") from None

    def receive(self, rank: int, op: str, timeout_s: float) -> Message:
        try:
            message = self._channels[rank - 1].receive(timeout_s)
        except Closed:
            raise self.lose(self._obituary(rank)) from None
        except TimeoutError:
            raise self.lose(f"{self._name(rank)} gave no answer in {timeout_s:g} s") from None
        if message.op == "failed":
            raise self.lose(f"{self._name(rank)} failed: {message.meta['why']}")
        if message.op != op:
            raise self.lose(f"{self._name(rank)} said {message.op!r} instead of {op!r}")
        return message

    def explain(self, error: Exception) -> ExecutorLost:
        """Why a sum or gather failed here: the end of a worker, if that is about to be known."""
        self._is_lost.wait(LEARN_S)
        return self.lose(f"rank 0 failed: {type(error).__name__}: {error}")

    def lose(self, why: str) -> ExecutorLost:
        """The first reason counts; it is returned."""
        with self._lock:
            is_first = self.lost is None
            if self.lost is None:
                self.lost = ExecutorLost(
                    f"a tensor-parallel engine of {len(self._processes) + 1} ranks lost one: {why}"
                )
        self._is_lost.set()
        if is_first and not self._is_closed:
            logger.error("%s", self.lost)
            for process in self._processes:
                process.kill()
            self._on_lost(self.lost)
        return self.lost

    def close(self) -> None:
        """Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        for channel in self._channels:
            with contextlib.suppress(OSError):  # it is gone already
                channel.send("close")
        for process in self._processes:
            _end(process)
        for channel in self._channels:
            channel.close()

    # -- internals ---------------------------------------------------------------

    def _begin(self, rank: int, num_threads: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-P", "-m", MODULE, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=os.environ | {"OMP_NUM_THREADS": str(num_threads)},
                    start_new_session=True,  # Ctrl-C reaches the engine's process only
                )
            )
        self._channels.append(Channel(ours, functools.partial(self._died, rank)))

    def _died(self, rank: int) -> None:
        """On the thread that reads from it."""
        if not self._is_closed:
            self.lose(self._obituary(rank))

    def _name(self, rank: int) -> str:
        return f"rank {rank} (process {self._processes[rank - 1].pid})"

    def _obituary(self, rank: int) -> str:
        """What it said last, or how it ended."""
        try:
            message = self._channels[rank - 1].receive(0.1)
            while message.op != "failed":
                message = self._channels[rank - 1].receive(0.1)
            return f"{self._name(rank)} failed: {message.meta['why']}"
        except (Closed, TimeoutError, IndexError):
            pass
        try:
            code = self._processes[rank - 1].wait(END_S)
        except subprocess.TimeoutExpired:
            return f"{self._name(rank)} closed its connection"
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"{self._name(rank)} {how}"


def _end(process: subprocess.Popen[bytes]) -> None:
    for seconds, harder in ((END_S, process.terminate), (END_S, process.kill), (KILL_S, None)):
        try:
            process.wait(seconds)
            return
        except subprocess.TimeoutExpired:
            if harder:
                harder()
    logger.error("process %d does not end", process.pid)
