"""Freed memory goes back: large blocks at once, the rest when asked; cycles are found soon."""

import gc
import os
import subprocess
import sys

import pytest

from evolute.engine import allocator
from evolute.engine.allocator import PARAMETERS, keep_little

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
EXCHANGE = """
import os, runpy, sys
allocator = runpy.run_path(sys.argv[2])
MB = allocator["MB"]
if sys.argv[1] == "little":
    allocator["keep_little"]()

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MB

large = b"x" * (24 * MB)            # its end raises glibc's own threshold
del large
before, weights, stays = resident(), [], []
for i in range(16):
    weights.append(b"x" * (6 * MB))
    stays.append(b"x" * (MB // 8))  # of a request in flight
weights.clear()
print(resident() - before)
"""


def kept_mb(how):
    """What stays resident when everything was freed."""
    result = subprocess.run(
        [sys.executable, "-c", EXCHANGE, how, allocator.__file__],
        capture_output=True,
        text=True,
        timeout=120,
        env={k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))},
        check=True,
    )
    return float(result.stdout)


@LINUX
def test_what_is_exchanged_again_and_again_leaves_little():
    assert kept_mb("little") < 8  # MB, of 96
    assert kept_mb("usual") > 48  # else this measures nothing


@LINUX
def test_the_environment_has_the_last_word(monkeypatch):
    names = {one.tunable for one in PARAMETERS}
    for one in PARAMETERS:
        monkeypatch.delenv(one.variable, raising=False)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: FakeLibrary())
    assert set(keep_little()) == names
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    assert set(keep_little()) == names - {"arena_max"}
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=1")
    assert set(keep_little()) == {"mmap_threshold"}


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert keep_little() == []


class FakeLibrary:
    def mallopt(self, number, value):
        return 1


def test_a_start_is_not_looked_at_again():
    try:
        kept = [[] for _ in range(1000)]
        allocator.freeze_start()
        assert gc.get_freeze_count() >= 1000
        assert not any(one is kept for one in gc.get_objects())
    finally:
        gc.unfreeze()
