"""The training API over HTTP: what works, what is refused, and who is told."""

import contextlib
import io
import tarfile
import threading
import time

import pytest
from postgres import postgres
from tinker_client import rl_datum, serving, tensor, text_datum, tokens

from evolute.engine import Engine
from evolute.models import load_model, load_peft
from evolute.train.tinker import Service, ServiceConfig
from evolute.train.tinker.records import Model, Session
from evolute.train.tinker.sweeper import sweep
from evolute.types import ConfigError

DATA = [text_datum("hello world, again"), text_datum("another line of it")]


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def served(request, tmp_path_factory):
    with contextlib.ExitStack() as stack:
        is_file = request.param == "sqlite"
        url = "" if is_file else stack.enter_context(postgres()).url
        place = tmp_path_factory.mktemp("service")
        client, service = stack.enter_context(serving(place, database=url))
        client.begin()
        client.service = service
        yield client


@pytest.fixture
def client(served):
    """A session of its own on the same server."""
    mine = served.as_key("none")
    mine.service = served.service
    mine.begin()
    return mine


def test_a_loss_falls(client):
    model = client.model()
    losses = []
    for _ in range(6):
        passed, stepped = client.train(model, DATA), client.step(model)
        found, step = client.result(passed), client.result(stepped)
        losses.append(found["metrics"]["loss:sum"])
        assert step["metrics"]["grad_norm"] > 0
        assert [len(o["logprobs"]["data"]) for o in found["loss_fn_outputs"]] == [17, 17]
    assert losses[-1] < 0.5 * losses[0]


def test_gradients_of_several_requests_add_up(client):
    both, apart = client.model(0), client.model(1)
    client.train(both, DATA)
    for datum in DATA:
        client.train(apart, [datum])
    norms = [client.result(client.step(m))["metrics"]["grad_norm"] for m in (both, apart)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_a_forward_leaves_no_gradient(client):
    model = client.model()
    found = client.result(client.train(model, DATA, path="forward"))
    assert found["metrics"]["loss:sum"] > 0
    stepped = client.result(client.step(model))
    assert stepped["category"] == "user" and "no gradient" in stepped["error"]


def test_a_bad_datum_fails_its_request_alone(client):
    model = client.model()
    bad = text_datum("some other text")
    bad["loss_fn_inputs"]["target_tokens"]["data"][0] = 9999
    futures = [client.train(model, data) for data in (DATA, [bad], DATA)]
    step = client.step(model)
    found = [client.result(future) for future in futures]
    assert "loss_fn_outputs" in found[0] and "loss_fn_outputs" in found[2]
    assert found[1]["category"] == "user" and "data[0]" in found[1]["error"]
    assert "metrics" in client.result(step)


def test_a_loss_that_is_not_finite_fails_its_request_alone(client):
    model, twin = client.model(0), client.model(1)
    huge = text_datum("far too much of it")
    huge["loss_fn_inputs"]["weights"] = tensor([3e38] * 17)
    good, bad = client.train(model, DATA), client.train(model, [huge])
    client.train(twin, DATA)
    assert "loss_fn_outputs" in client.result(good)
    assert "not finite" in client.result(bad)["error"]
    norms = [client.result(client.step(m))["metrics"]["grad_norm"] for m in (model, twin)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_a_step_too_far_is_not_made(client):
    model, twin = client.model(0), client.model(1)
    for one in (model, twin):
        client.train(one, DATA)
    assert "not finite" in client.result(client.step(model, learning_rate=1e39))["error"]
    norms = [client.result(client.step(m))["metrics"]["grad_norm"] for m in (model, twin)]
    assert norms[0] == norms[1]  # the gradient is there as it was
    ends = [client.result(client.train(m, DATA, path="forward")) for m in (model, twin)]
    assert ends[0]["metrics"] == ends[1]["metrics"]


def test_a_saved_model_goes_on_as_it_would_have(client):
    model = client.model()
    client.train(model, DATA)
    client.step(model)
    path = client.result(client.ask("save_weights", model, path="one"))["path"]
    body = {"session_id": client.session, "model_seq_id": 5, "path": path, "optimizer": True}
    copy = client.result(client.post("load_weights", body))["model_id"]
    ends = []
    for one in (model, copy):
        client.train(one, DATA)
        client.step(one)
        ends.append(client.result(client.train(one, DATA, path="forward"))["metrics"]["loss:sum"])
    assert ends[0] == ends[1]
    fresh = client.model(6)
    client.result(client.ask("load_weights", fresh, path=path, optimizer=False))
    client.train(fresh, DATA)
    client.step(fresh)
    other = client.result(client.train(fresh, DATA, path="forward"))["metrics"]["loss:sum"]
    assert other != ends[0]  # without the optimizer's state


def test_a_name_is_given_once(client):
    model = client.model()
    assert client.result(client.ask("save_weights", model, path="a"))["path"].endswith("/weights/a")
    assert "exists" in client.result(client.ask("save_weights", model, path="a"))["error"]
    again = client.ask("save_weights", model, path="a", overwrite=True)
    assert "path" in client.result(again)
    for bad in ("../x", "_mine", "a/b", ".."):
        found = client.result(client.ask("save_weights", model, path=bad))
        assert found["category"] == "user" and "name" in found["error"]


def test_samples_come_from_the_weights_that_were_saved(client):
    model = client.model()
    first = client.sampler(model, sampling_session_seq_id=0)["sampling_session_id"]
    ask = {"prompt_logprobs": True, "topk_prompt_logprobs": 3, "topk_sample_logprobs": 2}
    before = client.result(client.sample(b"hello", sampler=first, n=2, **ask))
    for _ in range(3):
        client.train(model, DATA)
        client.step(model)
    second = client.sampler(model, sampling_session_seq_id=1)["sampling_session_id"]
    again = client.result(client.sample(b"hello", sampler=first, n=2, **ask))
    after = client.result(client.sample(b"hello", sampler=second, n=2, **ask))
    assert again["sequences"] == before["sequences"]
    assert after["prompt_logprobs"] != before["prompt_logprobs"]
    base = client.result(client.sample(b"hello", base_model="tiny", n=2, **ask))
    assert base["sequences"] == before["sequences"]  # nothing was trained yet
    assert before["prompt_logprobs"][0] is None and len(before["prompt_logprobs"]) == 5
    assert before["topk_prompt_logprobs"][0] is None
    assert [len(row) for row in before["topk_prompt_logprobs"][1:]] == [3] * 4


def test_prompt_logprobs_are_those_of_a_forward(client):
    model = client.model()
    client.train(model, DATA)
    client.step(model)
    sampler = client.sampler(model, sampling_session_seq_id=0)["sampling_session_id"]
    text = b"hello world, again"
    sampled = client.result(client.sample(text, sampler=sampler, prompt_logprobs=True))
    passed = client.result(client.train(model, DATA[:1], path="forward"))
    ours = passed["loss_fn_outputs"][0]["logprobs"]["data"]
    assert ours == pytest.approx(sampled["prompt_logprobs"][1:], abs=2e-4)


def test_targets_in_a_prompt_are_scored(client):
    cells = [[ord("e"), -1], [ord("l"), 5], [-1, ord("l")]]
    asked = {"target_prompt_logprobs": tensor(cells, "int64"), "prompt_logprobs": True}
    found = client.result(client.sample(b"hell", base_model="tiny", **asked))
    table = found["target_prompt_logprobs"]
    assert table["shape"] == [3, 2]
    scored = found["prompt_logprobs"][1:]
    assert table["data"][0] == pytest.approx(scored[0], abs=1e-5)
    assert table["data"][1] == 0.0
    assert table["data"][2] == pytest.approx(scored[1], abs=1e-5)
    assert table["data"][5] == pytest.approx(scored[2], abs=1e-5)
    last = client.sample(b"hell", base_model="tiny", prompt_logprobs=True, prompt_logprobs_last_n=2)
    told = client.result(last)["prompt_logprobs"]
    assert told[:2] == [None, None] and told[2:] == pytest.approx(scored[1:], abs=1e-5)


def test_stops(client):
    free = client.result(client.sample(b"abc", base_model="tiny", params={"max_tokens": 12}))
    ids = free["sequences"][0]["tokens"]
    third = ids[2]
    first = ids.index(third)
    params = {"max_tokens": 12, "stop": [third]}
    held = client.result(client.sample(b"abc", base_model="tiny", params=params))["sequences"][0]
    assert held["tokens"] == ids[: first + 1] and held["stop_reason"] == "stop"
    mixed = {"max_tokens": 3, "stop": ["a", 3]}
    client.sample(b"abc", base_model="tiny", params=mixed, status=400)


def test_rewards_teach(client):
    """The cookbook's loop: more of one byte's bit pattern, by importance_sampling."""
    model, prompt, means = client.model(rank=8), list(b"Say:"), []
    for step in range(6):
        sampler = client.sampler(model, sampling_session_seq_id=step)["sampling_session_id"]
        params = {"max_tokens": 4, "seed": step}
        found = client.result(client.sample(prompt, sampler=sampler, n=24, params=params))
        rewards = [sum(t < 128 for t in s["tokens"]) / 4 for s in found["sequences"]]
        mean = sum(rewards) / len(rewards)
        means.append(mean)
        data = [
            rl_datum(prompt, s["tokens"], s["logprobs"], reward - mean)
            for s, reward in zip(found["sequences"], rewards)
        ]
        passed = client.train(model, data, "importance_sampling")
        client.step(model, learning_rate=0.02)
        metrics = client.result(passed)["metrics"]
        assert metrics["ratio:max"] == pytest.approx(1, abs=0.05)  # sampler and trainer agree
    assert means[-1] > means[0] + 0.15, means


def test_what_is_sent_twice_is_done_once(client):
    model = client.model()
    inner = {"data": DATA, "loss_fn": "cross_entropy"}
    body = {"model_id": model, "seq_id": 1, "forward_backward_input": inner}
    one, two = (client.post("forward_backward", body) for _ in range(2))
    assert one == two
    other = body | {"forward_backward_input": {"data": DATA[:1], "loss_fn": "cross_entropy"}}
    refusal = client.post("forward_backward", other, status=400)
    assert "number" in refusal["error"]["message"]
    client.seqs[model] = 1
    client.result(client.step(model))
    late = client.post("forward_backward", body | {"seq_id": 0}, status=200)
    assert "came after" in client.result(late)["error"]


def test_a_paused_model_waits_and_others_go_on(client):
    paused, other = client.model(0), client.model(1)
    sampler = client.sampler(paused, sampling_session_seq_id=0)["sampling_session_id"]
    client.post("pause_model", {"model_id": paused})
    held = [client.train(paused, DATA), client.sample(b"a", sampler=sampler)]
    client.train(other, DATA)
    assert "metrics" in client.result(client.step(other))
    for future in held:
        answer = client.post("retrieve_future", {"request_id": future["request_id"]})
        assert answer["type"] == "try_again" and answer["queue_state"] == "paused_capacity"
    client.post("resume_model", {"model_id": paused})
    assert all("error" not in client.result(future) for future in held)


def test_checkpoints_are_listed_sent_and_deleted(client, tmp_path):
    model = client.model(rank=2)
    client.train(model, DATA)
    client.step(model)
    client.result(client.ask("save_weights", model, path="w"))
    path = client.sampler(model, path="s", user_metadata={"a": "b"})["path"]
    listed = client.get(f"training_runs/{model}/checkpoints")["checkpoints"]
    assert [c["checkpoint_id"] for c in listed] == ["weights/w", "sampler_weights/s"]
    assert listed[1]["user_metadata"] == {"a": "b"} and listed[0]["checkpoint_type"] == "training"
    info = client.post("weights_info", {"tinker_path": path})
    assert (info["lora_rank"], info["train_unembed"], info["train_mlp"]) == (2, False, True)
    place = f"/api/v1/training_runs/{model}/checkpoints/sampler_weights/s"
    sent = client.http.get(f"{place}/archive")  # a redirect to the file
    with tarfile.open(fileobj=io.BytesIO(sent.content)) as tar:
        tar.extractall(tmp_path, filter="data")
    assert load_peft(tmp_path).config.rank == 2
    sampler = client.post(
        "create_sampling_session",
        {"session_id": client.session, "sampling_session_seq_id": 9, "model_path": path},
    )["sampling_session_id"]
    assert client.get(f"samplers/{sampler}")["model_path"] == path
    assert "sequences" in client.result(client.sample(b"x", sampler=sampler))
    assert client.http.delete(place).status_code == 204
    assert client.http.delete(place).status_code == 404
    run = client.get(f"training_runs/{model}")
    assert run["last_checkpoint"]["checkpoint_id"] == "weights/w"
    assert run["last_sampler_checkpoint"] is None
    assert client.get("training_runs?limit=1")["cursor"]["limit"] == 1
    assert "gone" not in client.get(f"sessions/{client.session}")["training_run_ids"]


def test_inflight_weights_change_under_their_samplers(client):
    model = client.model()
    one = client.sampler(model, sampling_session_seq_id=0, kind="inflight")["sampling_session_id"]
    first = client.result(client.sample(b"hello", sampler=one, prompt_logprobs=True))
    for _ in range(3):
        client.train(model, DATA)
        client.step(model)
    client.sampler(model, sampling_session_seq_id=1, kind="inflight")
    then = client.result(client.sample(b"hello", sampler=one, prompt_logprobs=True))
    assert then["prompt_logprobs"] != first["prompt_logprobs"]


def test_a_session_that_is_silent_expires_and_comes_back(client):
    model = client.model()
    client.train(model, DATA)
    client.result(client.step(model))
    client.post("pause_model", {"model_id": model})
    held = client.train(model, DATA)
    service = client.service
    service.store.change(Session, client.session, seen_at=time.time() - 1e6)
    sweep(service, time.time())
    assert "no sign of life" in client.result(held)["error"]
    assert service.store.get(Session, client.session).state == "expired"
    client.post("session_heartbeat", {"session_id": client.session})
    client.post("resume_model", {"model_id": model})
    assert "metrics" in client.result(client.train(model, DATA))


def test_results_are_not_kept_for_ever(client):
    future = client.sample(b"x", base_model="tiny")
    client.result(future)
    sweep(client.service, time.time() + client.service.config.keep_result_s + 10)
    expired = client.post("retrieve_future", {"request_id": future["request_id"]}, status=410)
    assert "kept" in expired["error"]["message"]


def test_a_finished_session_takes_nothing_more(client):
    client.post(f"sessions/{client.session}/finish", {"reason": {"type": "success"}})
    body = {"session_id": client.session, "model_seq_id": 0, "base_model": "tiny"}
    client.post("create_model", body | {"lora_config": {"rank": 2}}, status=400)
    client.post("session_heartbeat", {"session_id": client.session}, status=400)


def test_an_unloaded_model_is_gone(client):
    model = client.model()
    done = client.result(client.post("unload_model", {"model_id": model}))
    assert done["model_id"] == model
    refusal = client.ask("optim_step", model, status=400, adam_params={})
    assert "unloaded" in refusal["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("create_session", {"tags": "x"}, "tags"),
        ("create_session", {"tgas": []}, "tags"),
        ("create_model", {"session_id": "x"}, "model_seq_id"),
        ("create_model", {"session_id": 3, "model_seq_id": 0, "base_model": "tiny"}, "session_id"),
        ("optim_step", {"model_id": "x", "adam_params": {"lr": 1}}, "lr"),
        ("optim_step", {"model_id": "x"}, "adam_params"),
        ("asample", {"prompt": {"chunks": []}}, "sampling_params"),
        ("asample", {"prompt": tokens([1]), "sampling_params": {"top_p": "x"}}, "top_p"),
        ("retrieve_future", {}, "request_id"),
        ("weights_info", {"tinker_path": "tinker://x"}, "path"),
        ("save_weights", {"model_id": "x", "ttl_seconds": -1}, "ttl_seconds"),
        ("load_weights", {"path": "tinker://a/weights/b"}, "model_id"),
    ],
)
def test_a_body_that_cannot_be_is_refused_with_the_field(client, path, body, told):
    assert told in client.post(path, body, status=400)["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("retrieve_future", {"request_id": "x"}),
        ("get_info", {"model_id": "x"}),
        ("optim_step", {"model_id": "x", "adam_params": {}}),
        ("session_heartbeat", {"session_id": "x"}),
        ("weights_info", {"tinker_path": "tinker://a/weights/b"}),
        ("asample", {"prompt": tokens([1]), "sampling_params": {}, "sampling_session_id": "x"}),
        ("asample", {"prompt": tokens([1]), "sampling_params": {}, "base_model": "gpt"}),
    ],
)
def test_what_is_not_there_is_a_404(client, path, body):
    client.post(path, body, status=404)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"a": NaN}', b"\xff", b'"text"'])
def test_what_is_no_json_is_refused(client, raw):
    for path in ("create_session", "forward_backward", "asample", "retrieve_future"):
        headers = {"Content-Type": "application/json"}
        answer = client.http.post(f"/api/v1/{path}", content=raw, headers=headers)
        assert answer.status_code == 400, (path, raw, answer.text)


@pytest.mark.parametrize("raw", [b"", b"\xff" * 9, b"\x0a\x03abc", b"\x08\x01"])
def test_what_is_no_protocol_buffer_is_refused(client, raw):
    headers = {"Content-Type": "application/x-protobuf"}
    answer = client.http.post("/api/v1/forward_backward", content=raw, headers=headers)
    assert answer.status_code in (400, 404), answer.text
    packed = headers | {"Content-Encoding": "zstd"}
    answer = client.http.post("/api/v1/forward_backward", content=raw, headers=packed)
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "params", [{"temperature": -1}, {"top_p": 0}, {"stop": [""]}, {"max_tokens": 0, "top_k": 0}]
)
def test_sampling_settings_that_cannot_be_are_told(client, params):
    asked = client.http.post(
        "/api/v1/asample",
        json={"prompt": tokens([65]), "sampling_params": params, "base_model": "tiny"},
    )
    if asked.status_code == 200:
        found = client.result(asked.json())
        assert found.get("category") == "user" or "sequences" in found
    else:
        assert asked.status_code == 400


def test_a_sample_is_cancelled(client):
    model = client.model()
    sampler = client.sampler(model, sampling_session_seq_id=0)["sampling_session_id"]
    client.post("pause_model", {"model_id": model})
    future = client.sample(b"a", sampler=sampler)
    client.post("cancel_future", {"request_id": future["request_id"]})
    assert "cancelled" in client.result(future)["error"]


def test_limits(tmp_path):
    with serving(tmp_path, max_models=1, max_rank=4, max_datums=1, unembed="refuse") as (client, _):
        client.begin()
        model = client.model()
        body = {"session_id": client.session, "model_seq_id": 1, "base_model": "tiny"}
        lora = {"rank": 4, "train_unembed": False}
        refused = client.post("create_model", body | {"lora_config": lora}, status=400)
        assert "max_models" in refused["error"]["message"]
        assert "2 datums" in client.result(client.train(model, DATA))["error"]
        for bad in ({"rank": 5}, {"rank": 0}, {"rank": 2, "train_unembed": True}):
            client.post("create_model", body | {"lora_config": lora | bad}, status=400)


def test_keys_keep_tenants_apart(tmp_path):
    keys = ["alice=tml-a", "bob=tml-b"]
    with serving(tmp_path, api_keys=keys) as (client, _):
        alice, bob = client.as_key("tml-a"), client.as_key("tml-b")
        client.post("create_session", {"tags": []}, status=401)
        alice.begin()
        bob.begin()
        model = alice.model()
        path = alice.result(alice.ask("save_weights", model, path="w"))["path"]
        for asked, body in (
            ("get_info", {"model_id": model}),
            ("optim_step", {"model_id": model, "adam_params": {}}),
            ("weights_info", {"tinker_path": path}),
            ("session_heartbeat", {"session_id": alice.session}),
        ):
            bob.post(asked, body, status=404)
        assert bob.get("training_runs")["training_runs"] == []
        assert len(alice.get("checkpoints")["checkpoints"]) == 1


def test_settings_that_cannot_work_are_refused(tmp_path):
    model = load_model("tiny")
    engine = Engine(model, context=64, memory_mb=16, precision="int8")
    with engine, pytest.raises(ConfigError, match="float32"):
        Service(engine, model, ServiceConfig(str(tmp_path)))
    again = ServiceConfig(str(tmp_path / "one"))
    with serving(tmp_path / "one") as (_, service):
        engine = service.engine
        with pytest.raises(ConfigError, match="another training service"):
            Service(engine, model, again)
    with pytest.raises(ConfigError, match="look_ahead"):
        ServiceConfig(look_ahead=0)


def test_many_clients_at_once(served):
    """Each has its own model; all end, and equal work gives equal results."""
    found = []

    def work():
        mine = served.as_key("none")
        mine.begin()
        model = mine.model(seed=3)
        for _ in range(3):
            mine.train(model, DATA)
            mine.step(model)
        end = mine.result(mine.train(model, DATA, path="forward"))
        found.append(end["metrics"]["loss:sum"])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert len(found) == 4 and len(set(found)) == 1
    assert served.service.store.count(Model) >= 4
