"""What is sent when: pure plans, and the pieces that need no network."""

import json

import numpy as np
import pytest

from evolute.bench import WorkItem, make_workload
from evolute.bench.load import Target, plan
from evolute.bench.load.connection import Connections, Failure, _Chunks
from evolute.bench.load.plan import another
from evolute.bench.load.target import read
from evolute.bench.load.words import WORDS, text_of
from evolute.types import ConfigError

ITEMS = [WorkItem(f"i{i}", (20 + i,), 4) for i in range(4)]
TIMED = [WorkItem(f"t{i}", (20 + i,), 4, arrival_s=2.0 * i) for i in range(3)]


def test_without_wishes_recorded_moments_are_kept_and_others_come_at_once():
    assert plan(TIMED).is_open and [i.arrival_s for i in plan(TIMED).items] == [0, 2, 4]
    assert plan(ITEMS).concurrency == 4
    assert [i.arrival_s for i in plan(TIMED, speed=4.0).items] == [0, 0.5, 1]
    assert plan(TIMED, concurrency=2).concurrency == 2


@pytest.mark.parametrize("cv", [0.5, 1.0, 3.0])
def test_a_rate_gives_gaps_of_that_mean_and_variation(cv):
    items = [WorkItem(str(i), (20,), 1) for i in range(20000)]
    made = plan(items, rate=5.0, cv=cv)
    gaps = np.diff([i.arrival_s for i in made.items])
    assert made.is_open
    assert np.mean(gaps) == pytest.approx(0.2, rel=0.1)
    assert np.std(gaps) / np.mean(gaps) == pytest.approx(cv, rel=0.1)


def test_equal_seeds_give_equal_moments_and_others_do_not():
    assert plan(ITEMS, rate=1.0, seed=3) == plan(ITEMS, rate=1.0, seed=3)
    assert plan(ITEMS, rate=1.0, seed=3) != plan(ITEMS, rate=1.0, seed=4)


def test_at_a_rate_a_program_is_due_as_a_whole():
    items = make_workload("sglang-judge", 1000, scale=0.4)
    due = {}
    for item in plan(items, rate=2.0).items:
        if item.after:
            assert item.arrival_s == max(due[id] for id in item.after)
        due[item.id] = item.arrival_s


def test_more_requests_than_there_are_come_again_later_under_other_names():
    items = [*TIMED, WorkItem("t3", (29,), 4, 6.0, after=("t2",), program="p")]
    made = plan(items, requests=7).items
    assert [i.id for i in made] == ["t0", "t1", "t2", "t3", "t0#1", "t1#1", "t2#1"]
    assert [i.arrival_s for i in made] == [0, 2, 4, 6, 8, 10, 12]
    again = plan(items, requests=8).items[-1]
    assert (again.after, again.program) == (("t2#1",), "p#1")
    assert [i.id for i in plan(items, requests=2).items] == ["t0", "t1"]


def test_another_round_has_other_tokens_and_the_same_sharing():
    work = plan(make_workload("shared", 1000, scale=0.2))
    other = another(work, 1, 1000)
    assert another(work, 0, 1000) == work and another(work, 1, 1000) == other
    assert another(work, 2, 1000) != other
    pairs = {}
    for a, b in zip(work.items, other.items):
        assert len(a.prompt) == len(b.prompt)
        for x, y in zip(a.prompt, b.prompt):
            assert x != y and 16 <= y < 1000
            assert pairs.setdefault(x, y) == y
    special = plan([WorkItem("s", (1, 2, 500), 1)])
    assert another(special, 1, 1000).items[0].prompt[:2] == (1, 2)


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"concurrency": 2, "rate": 1.0}, "keep one"),
        ({"cv": 2.0}, "add --rate"),
        ({"rate": 1.0, "speed": 2.0}, "--speed"),
        ({"speed": 2.0}, "use --rate"),
        ({"concurrency": 0}, "--concurrency is 0"),
        ({"requests": 0}, "--requests is 0"),
        ({"rate": 0.0}, "--rate is 0"),
        ({"rate": float("nan")}, "--rate is nan"),
    ],
)
def test_wishes_that_cannot_be(wishes, message):
    with pytest.raises(ConfigError, match=message):
        plan(ITEMS, **wishes)


# -- bodies -------------------------------------------------------------------


def body(target, item, adapter=None):
    return json.loads(target.body(item, adapter))


def test_ids_are_sent_as_ids_and_texts_as_words():
    item = WorkItem("a", (20, 21, 20), 7, tenant="ann")
    ids = body(Target("s", "http://h", "m"), item)
    assert ids["prompt"] == [20, 21, 20] and ids["stream_options"] == {"include_usage": True}
    assert (ids["model"], ids["max_tokens"], ids["ignore_eos"]) == ("m", 7, True)
    assert (ids["temperature"], ids["user"]) == (0, "ann")
    text = body(Target("s", "http://h", "m", prompts="text", ignore_eos=False), item)
    assert text["prompt"].split() == [WORDS[20], WORDS[21], WORDS[20]]
    assert "ignore_eos" not in text
    chat = body(Target("s", "http://h", "m", endpoint="chat", prompts="text"), item)
    assert chat["messages"] == [{"role": "user", "content": text["prompt"]}]
    assert "stream" not in body(Target("s", "http://h", "m", is_streamed=False), item)


def test_words_are_distinct_so_that_other_ids_are_other_texts():
    assert len(set(WORDS)) == len(WORDS) > 250
    assert text_of((16, 17)) != text_of((17, 16))


def test_a_schema_is_asked_for_and_then_the_end_is_not_ignored():
    asked = body(Target("s", "http://h"), WorkItem("a", (20,), 7, json_schema='{"type":"object"}'))
    assert asked["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert "ignore_eos" not in asked


def test_adapters_get_served_names_in_turn_or_become_tenants():
    item = WorkItem("a", (20,), 7, adapter="adapter-9")
    named = Target("s", "http://h", "m", adapters=("x", "y"))
    assert [body(named, item, n)["model"] for n in (0, 1, 2)] == ["x", "y", "x"]
    plain = body(Target("s", "http://h", "m"), item, 0)
    assert (plain["model"], plain["user"]) == ("m", "adapter-9")


def test_keys_go_to_tenants_in_turn():
    target = Target("s", "http://h", api_keys=("k", "l"))
    assert target.headers(0)["Authorization"] == "Bearer k"
    assert target.headers(3)["Authorization"] == "Bearer l"
    assert Target("s", "http://h").headers(1) == {}


def test_the_path_may_end_in_v1():
    assert Target("s", "http://h:1/v1/").base == Target("s", "http://h:1").base == "http://h:1"


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://h", "http://", "http://h:99999"])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ConfigError, match="--url"):
        Connections(url)


def test_chat_takes_no_ids():
    with pytest.raises(ConfigError, match="--prompts text"):
        Target("s", "http://h", endpoint="chat")


# -- answers ------------------------------------------------------------------


def test_the_chunk_with_the_role_is_no_token():
    role = '{"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}'
    token = '{"choices":[{"delta":{"content":"a"}}]}'
    thought = '{"choices":[{"delta":{"reasoning_content":"a"}}]}'
    assert not read(role, "chat").has_token
    assert read(token, "chat").has_token and read(thought, "chat").has_token


def test_ends_usage_and_errors_are_seen():
    end = read('{"choices":[{"text":"","finish_reason":"length"}],"usage":null}', "completions")
    assert (end.has_token, end.finish_reason, end.usage) == (False, "length", None)
    usage = read('{"choices":[],"usage":{"completion_tokens":3}}', "completions")
    assert usage.usage == {"completion_tokens": 3} and not usage.has_token
    assert read('{"error":{"message":"full"}}', "chat").error == "full"
    assert read('{"error":"full"}', "chat").error == "full"


@pytest.mark.parametrize("payload", ["", "{", "[]", "3", '{"choices":[1]}', '{"choices":4}'])
def test_what_is_no_answer_is_a_failure(payload):
    with pytest.raises(Failure, match="no chunk") as caught:
        read(payload, "completions")
    assert caught.value.kind == "bad_answer"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_chunked_bodies_come_apart_however_the_network_cuts_them(size):
    parts = [b"data: a\n\n", b"x" * 40, b"\r\n", b"0\r\n\r\n"]
    wire = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(p), p) for p in parts)
    wire += b"0\r\nTrailer: t\r\n\r\n"
    chunks, found = _Chunks(), b""
    for i in range(0, len(wire), size):
        assert not chunks.is_done
        found += chunks.feed(wire[i : i + size])
    assert found == b"".join(parts) and chunks.is_done
