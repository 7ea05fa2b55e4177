"""Slots on disk and in host memory give back what was written, or say that they do not."""

import errno
import os
import subprocess
import sys
import threading
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.engine import EngineConfig, resolve
from evolute.engine.execution import tier_directory, tier_stores
from evolute.engine.execution.native_executor import NativeExecutor
from evolute.engine.execution.tier_directory import TierDirectory, remove_stale
from evolute.engine.execution.tier_stores import DiskSlots, HostSlots
from evolute.engine.execution.torch_executor import TorchExecutor
from evolute.models import load_model
from evolute.types import ConfigError

TINY = load_model("tiny")
PAGES, SLOTS, SIZE = 6, 4, 4096
NAME = b"a page"
NAMES = [NAME] * SLOTS


class Pages:
    """As much of an executor as a store needs."""

    page_bytes = SIZE

    def __init__(self):
        self.memory = np.random.default_rng(0).integers(0, 256, (PAGES, SIZE), np.uint8)

    def read_page(self, page, into):
        into[:] = self.memory[page]

    def write_page(self, page, data):
        self.memory[page] = data


def disk(directory, queue_mb=1, pages=None):
    pages = pages or Pages()
    return pages, DiskSlots(pages, SLOTS, TierDirectory(SLOTS * SIZE, str(directory)), queue_mb)


def wait(store):
    """Until everything is written."""
    for write in list(store._flying):
        write.done.exception(20)


@pytest.mark.parametrize("queue_mb", [0, 1])
def test_pages_come_back_from_disk(tmp_path, queue_mb):
    pages, store = disk(tmp_path, queue_mb)
    before = pages.memory.copy()
    for slot, page in enumerate([3, 1, 0]):
        assert store.can_write()
        store.write(page, slot, NAME)
        pages.memory[page] = 7  # it is somebody else's at once
    wait(store)
    assert store.read([0, 1, 2], [5, 1, 4], NAMES)[0] == 3
    for page, source in {5: 3, 1: 1, 4: 0}.items():
        assert (pages.memory[page] == before[source]).all()
    assert store.read([3], [2], NAMES)[0] == 0, "nothing was written there"
    store.close()
    assert list(tmp_path.iterdir()) == []


def test_a_page_still_on_its_way_is_read_from_its_buffer(tmp_path, monkeypatch):
    go = threading.Event()
    write_all = tier_stores._write_all
    monkeypatch.setattr(tier_stores, "_write_all", lambda *a: (go.wait(20), write_all(*a)))
    pages, store = disk(tmp_path)
    before = pages.memory.copy()
    store.write(0, 2, NAME)
    store.write(1, 2, NAME)  # the slot was given to a newer page meanwhile
    assert store.read([2], [5], NAMES)[0] == 1
    assert (pages.memory[5] == before[1]).all()
    go.set()
    wait(store)
    assert store.read([2], [4], NAMES)[0] == 1
    assert (pages.memory[4] == before[1]).all()
    store.close()


def test_a_writer_that_is_behind_takes_no_more(tmp_path, monkeypatch):
    go = threading.Event()
    monkeypatch.setattr(tier_stores, "_write_all", lambda *_: go.wait(20))
    pages = Pages()
    pages.page_bytes = SIZE
    _, store = disk(tmp_path, 1, pages)
    store._num_buffers = 2
    store.write(0, 0, NAME)
    assert store.can_write()
    store.write(1, 1, NAME)
    assert not store.can_write()
    go.set()
    wait(store)
    assert store.can_write()
    store.close()


def spoil(path, slot, how):
    at = slot * SIZE
    with open(path, "r+b") as file:
        if how == "cut":
            file.truncate(at + SIZE // 2)
        elif how == "torn":
            file.seek(at + SIZE // 2)
            file.write(bytes(SIZE // 2))
        elif how == "flipped":
            file.seek(at + 77)
            byte = file.read(1)
            file.seek(at + 77)
            file.write(bytes([byte[0] ^ 1]))
        else:  # another slot's page
            file.seek(0)
            other = file.read(SIZE)
            file.seek(at)
            file.write(other)


@pytest.mark.parametrize("how", ["cut", "torn", "flipped", "moved"])
def test_a_slot_that_is_not_what_was_written_is_found(tmp_path, how):
    pages, store = disk(tmp_path)
    for slot in range(3):
        store.write(slot, slot, NAME)
    wait(store)
    store.can_write()
    spoil(store._directory.path / "slots", 2, how)
    assert store.read([0, 1, 2], [3, 4, 5], NAMES)[0] == 2
    assert (pages.memory[4] == pages.memory[1]).all()
    assert not store.why_broken, "one bad slot is no reason to give up"
    store.close()


@pytest.mark.parametrize("is_written", [False, True])
@pytest.mark.parametrize("kind", ["disk", "host"])
def test_a_slot_that_still_holds_another_page_is_found(tmp_path, monkeypatch, kind, is_written):
    """Whole and with its own checksum, but not what is asked for; on its way there or written."""
    go = threading.Event()
    write_all = tier_stores._write_all
    monkeypatch.setattr(tier_stores, "_write_all", lambda *a: (go.wait(20), write_all(*a)))
    pages, store = disk(tmp_path) if kind == "disk" else (Pages(), None)
    store = store or HostSlots(pages, SLOTS)
    if is_written:
        go.set()
    store.write(0, 0, b"old")
    store.write(1, 1, b"other")
    if is_written and kind == "disk":
        wait(store)
    before = pages.memory.copy()
    assert store.read([1, 0], [4, 5], [b"other", b"new"])[0] == 1
    assert (pages.memory[5] == before[5]).all(), "nothing of it was taken over"
    assert store.read([0], [5], [b"old"])[0] == 1
    go.set()
    store.close()


def test_a_checksum_that_forgets_whose_a_page_is_would_let_it_pass(tmp_path, monkeypatch):
    """The planted bug that the test above is there for."""
    monkeypatch.setattr(tier_stores, "_checksum", lambda data, name: zlib.crc32(data.data))
    _, store = disk(tmp_path)
    store.write(0, 0, b"old")
    wait(store)
    store.can_write()
    assert store.read([0], [5], [b"new"])[0] == 1
    store.close()


@pytest.mark.parametrize("queue_mb", [0, 1])
@pytest.mark.parametrize("call", ["pwrite", "preadv"])
def test_an_error_of_the_system_breaks_the_store_and_nothing_else(
    tmp_path, monkeypatch, call, queue_mb
):
    _, store = disk(tmp_path, queue_mb)
    if call == "preadv":
        store.write(0, 0, NAME)
        wait(store)
        store.can_write()

    def fails(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, fails)
    if call == "pwrite":
        store.write(0, 0, NAME)
        wait(store)
    assert store.read([0], [5], NAMES)[0] == 0
    assert "No space left" in store.why_broken
    assert not store.can_write()
    store.close()


@settings(max_examples=60, deadline=None)
@given(
    events=st.lists(
        st.tuples(
            st.sampled_from(["write", "read", "spoil", "wait"]),
            st.integers(0, PAGES - 1),
            st.integers(0, SLOTS - 1),
        ),
        max_size=30,
    )
)
def test_whatever_happens_no_wrong_bytes_come_back(tmp_path_factory, events):
    pages, store = disk(tmp_path_factory.mktemp("tier"))
    truth, draw = {}, np.random.default_rng(1)
    try:
        for what, page, slot in events:
            if what == "write" and store.can_write():
                pages.memory[page] = draw.integers(0, 256, SIZE, np.uint8)
                truth[slot] = pages.memory[page].copy()
                store.write(page, slot, NAME)
            elif what == "read":
                done, _ = store.read([slot], [page], NAMES)
                assert not done or (pages.memory[page] == truth[slot]).all()
            elif what == "spoil" and slot in truth:
                wait(store)
                store.can_write()
                spoil(store._directory.path / "slots", slot, "flipped")
                assert store.read([slot], [page], NAMES)[0] == 0
                store._sums.pop(slot, None)  # spoilt twice would be whole again
            elif what == "wait":
                wait(store)
    finally:
        store.close()


# -- directories ---------------------------------------------------------------


def test_the_directory_is_private_and_removed(tmp_path):
    directory = TierDirectory(SIZE, str(tmp_path / "new"))
    assert directory.path.stat().st_mode & 0o777 == 0o700
    assert (directory.path / "slots").stat().st_mode & 0o777 == 0o600
    assert (directory.path / "slots").stat().st_size == SIZE
    directory.close()
    directory.close()
    assert list((tmp_path / "new").iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_lives_is_not(tmp_path):
    living = TierDirectory(SIZE, str(tmp_path))
    code = (
        "import os, sys; from evolute.engine.execution.tier_directory import TierDirectory\n"
        "d = TierDirectory(4096, sys.argv[1]); print(d.path, flush=True); os.kill(os.getpid(), 9)"
    )
    run = [sys.executable, "-c", code, str(tmp_path)]
    dead = subprocess.run(run, capture_output=True, text=True, timeout=100).stdout.strip()
    assert os.path.exists(dead)
    (tmp_path / "evolute-tier-other").write_text("somebody's file")
    young = tmp_path / "evolute-tier-young"
    young.mkdir()
    assert remove_stale(tmp_path) == 1
    assert not os.path.exists(dead)
    assert living.path.exists() and young.exists() and (tmp_path / "evolute-tier-other").exists()
    os.utime(young, (0, 0))
    assert remove_stale(tmp_path) == 1
    living.close()


def test_a_disk_that_is_too_small_is_refused_with_the_numbers(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tier_directory.os, "posix_fallocate", fails)
    with pytest.raises(ConfigError, match=r"engine.tier_mb is 8, but .* MB free: No space left"):
        TierDirectory(8 * 2**20, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_used_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="tier_dir"):
        TierDirectory(SIZE, str(tmp_path / "file"))


@pytest.mark.parametrize("most", [0, -1])
def test_a_step_that_may_copy_nothing_back_is_refused(most):
    with pytest.raises(ConfigError, match=rf"engine.tier_step_mb is {most}; .* at least 1"):
        EngineConfig(tier="disk", tier_step_mb=most)


def test_a_step_that_may_copy_back_less_than_a_page_is_refused_with_the_numbers():
    large = replace(TINY.config, num_layers=1000)
    config = EngineConfig(tier="disk", tier_step_mb=1, memory_mb=4096)
    with pytest.raises(ConfigError, match=r"tier_step_mb is 1, but one page takes \d+\.\d MB"):
        resolve(config, large, cores=1, has_native=True)
    assert resolve(replace(config, tier_step_mb=64), large, cores=1, has_native=True).num_slots
    resolve(replace(config, tier="none"), large, cores=1, has_native=True)  # nothing is copied


# -- executors and host memory -------------------------------------------------


def executor_of(kind, kv_dtype="auto"):
    config = EngineConfig(
        executor=kind,
        memory_mb=1,
        page_size=4,
        kv_dtype=kv_dtype,
        num_threads=1,
        precision="float32",
    )
    settings = resolve(config, TINY.config, cores=1, has_native=True)
    if kind == "native":
        made = NativeExecutor(TINY, settings)
    else:
        made = TorchExecutor(TINY.config, TINY.weights, settings)
    assert made.page_bytes == settings.page_bytes
    return made


@pytest.mark.parametrize("kv_dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", ["native", "torch"])
def test_executors_copy_their_pages_to_the_bit(kind, kv_dtype):
    executor = executor_of(kind, kv_dtype)
    draw = np.random.default_rng(0)
    first, second = draw.integers(0, 256, (2, executor.page_bytes), np.uint8)
    executor.write_page(3, first)
    executor.write_page(4, second)
    found = np.empty(executor.page_bytes, np.uint8)
    for page, wanted in {3: first, 4: second}.items():
        executor.read_page(page, found)
        assert (found == wanted).all()


def test_memory_of_the_native_pool_is_its_own():
    pool = executor_of("native")._pages
    keys, values = pool.memory()
    keys[2], values[2] = 5, 6
    pool.copy_page(2, 7)
    assert (keys[7] == 5).all() and (values[7] == 6).all()
    assert not keys[6].any() and not values[8].any()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_pages_come_back_from_host_memory(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    executor = executor_of("torch")
    executor._keys = [side.to(device) for side in executor._keys]
    executor._values = [side.to(device) for side in executor._values]
    store = HostSlots(executor, SLOTS)
    assert store.memory.is_pinned() == store.is_pinned == torch.cuda.is_available()
    draw = np.random.default_rng(0)
    wanted = draw.integers(0, 256, (SLOTS, executor.page_bytes), np.uint8)
    for slot in range(SLOTS):
        executor.write_page(slot, wanted[slot])
        store.write(slot, slot, NAME)
        executor.write_page(slot, np.zeros_like(wanted[slot]))
    assert store.read(range(SLOTS), range(8, 8 + SLOTS), NAMES)[0] == SLOTS
    for slot in range(SLOTS):
        found = np.empty(executor.page_bytes, np.uint8)
        executor.read_page(8 + slot, found)
        assert (found == wanted[slot]).all()
    store.close()
