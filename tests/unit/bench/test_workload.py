"""Workloads are the same for everybody, of the sizes they promise, and survive a file."""

import itertools

import pytest

from evolute.bench import SHAPES, load_workload, make_workload, save_workload
from evolute.types import ConfigError

VOCAB = 1000


@pytest.mark.parametrize("shape", SHAPES)
def test_equal_seeds_give_equal_work_and_others_do_not(shape):
    assert make_workload(shape, VOCAB, seed=3) == make_workload(shape, VOCAB, seed=3)
    assert make_workload(shape, VOCAB, seed=3) != make_workload(shape, VOCAB, seed=4)


@pytest.mark.parametrize("shape", SHAPES)
def test_ids_are_unique_and_tokens_lie_in_the_vocabulary(shape):
    items = make_workload(shape, VOCAB)
    assert len({item.id for item in items}) == len(items)
    assert all(16 <= token < VOCAB for item in items for token in item.prompt)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_smallest_scale_still_asks_for_something(shape):
    items = make_workload(shape, VOCAB, scale=0.001)
    assert items and all(item.prompt and item.max_new_tokens >= 1 for item in items)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_gives_back_what_was_saved(shape, tmp_path):
    items = make_workload(shape, VOCAB, scale=0.1)
    save_workload(items, tmp_path / "w.jsonl")
    assert load_workload(tmp_path / "w.jsonl") == items


def test_batch_has_the_sizes_of_the_peers_workload():
    items = make_workload("batch", VOCAB)
    assert len(items) == 64
    assert {item.max_new_tokens for item in items} == {128}
    lengths = [len(item.prompt) for item in items]
    assert 32 <= min(lengths) < 64 and 224 < max(lengths) <= 256


def test_shared_prompts_differ_only_after_the_prefix():
    items = make_workload("shared", VOCAB)
    assert len({item.prompt[:512] for item in items}) == 1
    assert len({item.prompt[512:] for item in items}) == 64
    assert {len(item.prompt) for item in items} == {544}


def test_a_turn_of_a_chat_holds_the_turns_before_it():
    talk = [item for item in make_workload("chat", VOCAB) if item.id.startswith("chat-0-")]
    assert len(talk) == 6
    for before, after in itertools.pairwise(talk):
        assert after.prompt[: len(before.prompt)] == before.prompt
        assert len(after.prompt) >= len(before.prompt) + before.max_new_tokens
        assert after.arrival_s > before.arrival_s


def test_arrivals_come_one_after_the_other_at_the_rate_promised():
    times = [item.arrival_s for item in make_workload("arrivals", VOCAB)]
    assert times == sorted(times) and times[0] > 0
    assert 64 / times[-1] == pytest.approx(4.0, rel=0.5)


def test_an_unknown_workload_names_the_nearest():
    with pytest.raises(ConfigError, match="'shared'"):
        make_workload("sharde", VOCAB)


def test_a_recording_without_arrivals_is_read(tmp_path):
    (tmp_path / "w").write_text('{"id": "a", "prompt": [20, 21], "max_new_tokens": 3}\n')
    (item,) = load_workload(tmp_path / "w")
    assert (item.prompt, item.max_new_tokens, item.arrival_s) == ((20, 21), 3, 0.0)


@pytest.mark.parametrize(
    "text", ["", "\n", "{", "[]\n", '{"id": "a"}\n', '{"id":"a","prompt":["x"],"max_new_tokens":1}']
)
def test_a_damaged_recording_is_refused_by_name(tmp_path, text):
    (tmp_path / "w.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=r"w\.jsonl"):
        load_workload(tmp_path / "w.jsonl")


def test_a_missing_recording_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.jsonl"):
        load_workload(tmp_path / "none.jsonl")
