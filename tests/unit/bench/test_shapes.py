"""The papers' workloads have the papers' numbers, and their programs hang together."""

import collections
import itertools
import json

import numpy as np
import pytest

from evolute.bench import SHAPES, load_workload, make_workload, save_workload
from evolute.bench.shapes import WorkItem, slora, vtc
from evolute.bench.workload import shareable_tokens
from evolute.types import ConfigError

VOCAB = 1000


def by_tenant(items):
    found = collections.defaultdict(list)
    for item in items:
        found[item.tenant].append(item)
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_what_a_request_waits_for_stands_above_it_and_is_of_its_program(shape):
    program_of = {}
    for item in make_workload(shape, VOCAB, scale=0.3):
        assert all(program_of[id] == item.program for id in item.after)
        program_of[item.id] = item.program


@pytest.mark.parametrize("shape", [s for s in SHAPES if s.startswith(("vtc", "slora", "arr"))])
def test_recorded_moments_are_in_order(shape):
    times = [item.arrival_s for item in make_workload(shape, VOCAB, scale=0.3)]
    assert times == sorted(times) and times[0] >= 0


# -- S-LoRA -------------------------------------------------------------------


def test_the_slora_trace_is_drawn_in_the_published_order():
    """Adapters, prompts, outputs, then gaps, all from one legacy generator with seed 42."""
    made = slora.trace(100, 2.0, 300.0, alpha=0.3, cv=2.0)
    draw = np.random.RandomState(42)
    assert made.adapters == [int(u * 100) for u in draw.power(0.3, 600)]
    assert made.num_prompt == list(draw.randint(8, 512, 600))
    assert made.num_new == list(draw.randint(8, 512, 600))
    assert made.arrival_s == pytest.approx(list(itertools.accumulate(draw.gamma(0.25, 2.0, 600))))


def test_the_slora_trace_is_pinned():
    made = slora.trace(100, 2.0, 300.0, alpha=1.0, cv=1.0)
    assert made.adapters[:5] == [37, 95, 73, 59, 15]
    assert (made.num_prompt[:3], made.num_new[:3]) == ([12, 473, 99], [410, 43, 292])
    assert made.arrival_s[0] == pytest.approx(0.1598455812792035)


def test_alpha_one_is_uniform_and_a_small_alpha_is_not():
    shares = {}
    for name in ("uniform", "skewed"):
        items = make_workload(f"slora-{name}", VOCAB)
        assert len(items) == 600
        counts = collections.Counter(item.adapter for item in items)
        shares[name] = counts.most_common(1)[0][1] / 600
    assert shares["uniform"] < 0.04 and shares["skewed"] > 0.5


def test_bursts_have_the_coefficient_of_variation_that_they_promise():
    gaps = np.diff(slora.trace(5, 10.0, 3000.0, alpha=1.0, cv=4.0).arrival_s)
    assert np.std(gaps) / np.mean(gaps) == pytest.approx(4.0, rel=0.1)
    assert 1 / np.mean(gaps) == pytest.approx(10.0, rel=0.1)


def test_the_arenas_adapters_and_lengths():
    items = make_workload("slora-arena", VOCAB)
    assert len({item.adapter for item in items}) == 26
    assert np.mean([len(item.prompt) for item in items]) == pytest.approx(85, rel=0.15)
    assert np.mean([item.max_new_tokens for item in items]) == pytest.approx(165, rel=0.15)


# -- VTC ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("overload", [540, 1080]),
        ("proportional", [150, 300, 900]),
        ("on_off_less", [150, 1200]),
        ("on_off_overload", [600, 1800]),
        ("increase", [300, 660]),
        ("dist_shift", [90 + 300 + 150, 600 + 300 + 450]),
        ("overload_multi", [240] * 3 + [360] * 5),
        ("weighted", [480, 480, 720, 960]),
    ],
)
def test_clients_ask_as_often_as_in_the_paper(name, counts):
    items = make_workload(f"vtc-{name}", VOCAB)
    found = by_tenant(items)
    assert [len(found[f"client-{i}"]) for i in range(len(found))] == counts
    assert {(len(i.prompt), i.max_new_tokens) for i in items} == {(256, 256)}


def test_evenly_spaced_clients_are_evenly_spaced():
    times = [i.arrival_s for i in by_tenant(make_workload("vtc-overload", VOCAB))["client-0"]]
    assert np.diff(times) == pytest.approx(1 / 1.5, abs=2e-6)
    assert times[0] == 0 and times[-1] < 360


def test_an_on_off_client_is_silent_every_other_minute():
    on_off = by_tenant(make_workload("vtc-on_off_less", VOCAB))["client-0"]
    assert {int(item.arrival_s // 60) for item in on_off} == {0, 2, 4, 6, 8}
    small = by_tenant(make_workload("vtc-on_off_less", VOCAB, scale=0.5))["client-0"]
    assert {int(item.arrival_s // 30) for item in small} == {0, 2, 4, 6, 8}


def test_a_rising_client_asks_ten_times_as_often_in_the_end():
    times = [i.arrival_s for i in by_tenant(make_workload("vtc-increase", VOCAB))["client-1"]]
    assert 1 / (times[1] - times[0]) < 0.35
    assert 1 / (times[-1] - times[-2]) == pytest.approx(2.0, rel=0.02)


def test_longer_requests_come_less_often():
    for num_tokens, counts in ((256, (1800, 3600)), (512, (900, 1800)), (768, (600, 1200))):
        found = by_tenant(make_workload(f"vtc-overload_{num_tokens}", VOCAB))
        assert (len(found["client-0"]), len(found["client-1"])) == counts
        assert len(found["client-0"][0].prompt) == found["client-1"][0].max_new_tokens == num_tokens


def test_short_and_long_clients():
    found = by_tenant(make_workload("vtc-poisson_short_long_2", VOCAB, seed=5))
    assert {(len(i.prompt), i.max_new_tokens) for i in found["client-0"]} == {(64, 512)}
    assert {(len(i.prompt), i.max_new_tokens) for i in found["client-1"]} == {(512, 64)}
    assert len(found["client-0"]) == pytest.approx(4800, rel=0.1)
    assert len(found["client-1"]) == pytest.approx(900, rel=0.15)


def test_the_arenas_clients_and_lengths():
    items = make_workload("vtc-arena", VOCAB)
    assert len(items) == 1500 == sum(vtc.ARENA_COUNTS)
    found = by_tenant(items)
    assert len(found["client-0"]) == pytest.approx(296, rel=0.15)
    prompts = [len(i.prompt) for i in items]
    assert np.median(prompts) == pytest.approx(40, rel=0.25) and max(prompts) <= 1021
    assert np.mean(prompts) == pytest.approx(136, rel=0.2)
    assert np.mean([i.max_new_tokens for i in items]) == pytest.approx(256, rel=0.15)


# -- SGLang -------------------------------------------------------------------


def test_few_shot_questions_share_their_examples_and_answer_in_one_token():
    items = make_workload("sglang-mmlu", VOCAB)
    assert {item.max_new_tokens for item in items} == {1}
    assert len({item.prompt[:450] for item in items}) == 4


def test_the_four_endings_of_a_question_share_it():
    items = make_workload("sglang-hellaswag", VOCAB)
    for _, group in itertools.groupby(items, key=lambda item: item.program):
        prompts = [item.prompt for item in group]
        assert len(prompts) == 4 and len({p[:1230] for p in prompts}) == 1


@pytest.mark.parametrize(
    "name", ["react", "tree_of_thought", "skeleton", "multiturn_short", "multiturn_long"]
)
def test_what_follows_a_call_quotes_it_and_its_reply(name):
    items = {item.id: item for item in make_workload(f"sglang-{name}", VOCAB)}
    followers = [item for item in items.values() if item.after]
    assert followers
    for item in followers:
        before = items[item.after[0]]
        assert item.prompt[: len(before.prompt)] == before.prompt
        assert len(item.prompt) >= len(before.prompt) + before.max_new_tokens


def test_a_tree_of_thoughts_forks_in_three():
    items = make_workload("sglang-tree_of_thought", VOCAB)
    one = [item for item in items if item.program == items[0].program]
    children = collections.Counter(id for item in one for id in item.after)
    assert len(one) == 3 + 9 + 9
    assert sorted(children.values()) == [1] * 9 + [3] * 3


def test_a_judge_merges_what_five_have_said():
    items = make_workload("sglang-judge", VOCAB, scale=0.2)
    assert [len(item.after) for item in items if item.program == items[0].program] == [0] * 5 + [5]


@pytest.mark.parametrize(("name", "low", "high"), [("short", 4, 8), ("long", 256, 512)])
def test_turns_have_the_papers_lengths(name, low, high):
    items = make_workload(f"sglang-multiturn_{name}", VOCAB)
    for _, turns in itertools.groupby(items, key=lambda item: item.program):
        turns = list(turns)
        assert len(turns) == 4 and 256 <= len(turns[0].prompt) <= 512
        assert all(low <= turn.max_new_tokens <= high for turn in turns)
        assert len(turns[-1].prompt) + turns[-1].max_new_tokens <= 4096


def test_json_answers_have_a_schema_that_is_json():
    for item in make_workload("sglang-json", VOCAB, scale=0.1):
        assert json.loads(item.json_schema)["type"] == "object"


# -- the best cache -----------------------------------------------------------


def test_shareable_tokens_are_all_but_the_edges_of_the_trie():
    prompts = [(1, 2, 3), (1, 2, 4), (1, 2, 3, 5), (9,), (1, 2, 3)]
    edges = {p[: i + 1] for p in prompts for i in range(len(p))}
    items = [WorkItem(str(i), p, 1) for i, p in enumerate(prompts)]
    assert shareable_tokens(items) == sum(map(len, prompts)) - len(edges)


def test_shareable_tokens_of_a_shared_prefix():
    assert shareable_tokens(make_workload("shared", 49152)) == pytest.approx(63 * 512, abs=8)


# -- files --------------------------------------------------------------------


def test_a_file_keeps_what_is_unusual_and_leaves_out_what_is_not(tmp_path):
    items = [
        WorkItem("a", (20,), 3),
        WorkItem("b", (21,), 4, 1.5, "ann", "x", ("a",), "p", '{"type": "object"}'),
    ]
    save_workload(items, tmp_path / "w.jsonl")
    first, second = map(json.loads, (tmp_path / "w.jsonl").read_text().splitlines())
    assert set(first) == {"id", "prompt", "max_new_tokens", "arrival_s"}
    assert second["tenant"] == "ann"
    assert load_workload(tmp_path / "w.jsonl") == items


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"id":"a","prompt":[1],"max_new_tokens":1,"tennant":"x"}'], "Did you mean 'tenant'"),
        (['{"id":"a","prompt":[1],"max_new_tokens":1}'] * 2, "ids must differ"),
        (['{"id":"a","prompt":[1],"max_new_tokens":1,"after":["b"]}'], "stand above it"),
        (['{"id":"a","prompt":[1],"max_new_tokens":1,"after":["a"]}'], "stand above it"),
    ],
)
def test_a_recording_that_cannot_be_is_refused(tmp_path, lines, message):
    (tmp_path / "w.jsonl").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=message):
        load_workload(tmp_path / "w.jsonl")


def test_a_scale_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="above 0"):
        make_workload("batch", VOCAB, scale=0)
