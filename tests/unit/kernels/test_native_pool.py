"""Threads share numbered tasks: each task of a round runs once, however late a thread wakes."""

from __future__ import annotations

import pytest

native = pytest.importorskip("evolute.kernels._native", reason="the native kernels are not built")


@pytest.mark.parametrize("num_threads", [2, 3])
def test_every_task_of_a_round_runs_exactly_once(num_threads):
    """A thread late for one round once claimed a task of the next: about 10 in a million."""
    assert native.count_miscounted_rounds(num_threads, 1_500_000) == 0
