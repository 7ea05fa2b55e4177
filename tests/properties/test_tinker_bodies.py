"""Whatever a client sends, it is told why not: a 4xx that names something, never a 5xx; and what
was accepted ends, as done or as the client's fault, never as the server's."""

import copy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tinker_client import serving, tensor, text_datum, tokens

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
# threads of the served service draw random numbers while a strategy draws, and Hypothesis takes
# those for the strategy's own
pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")
FEW = settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow], deadline=None)
DATUM = text_datum("some text here")
PASSED = {"data": [DATUM], "loss_fn": "cross_entropy", "loss_fn_config": {"x": 1.0}}
ADAM = {"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.9, "eps": 1e-8, "weight_decay": 0.0}
BODIES = {
    "create_session": {"tags": ["a"], "user_metadata": {"a": 1}, "sdk_version": "1"},
    "session_heartbeat": {"session_id": "x"},
    "create_model": {
        "session_id": "SESSION",
        "model_seq_id": 1,
        "base_model": "tiny",
        "lora_config": {"rank": 2, "seed": 1},
    },
    "get_info": {"model_id": "MODEL"},
    "forward_backward": {"model_id": "MODEL", "forward_backward_input": PASSED},
    "forward": {"model_id": "MODEL", "forward_input": PASSED},
    "optim_step": {"model_id": "MODEL", "adam_params": ADAM},
    "save_weights": {"model_id": "MODEL", "path": "a", "overwrite": True, "ttl_seconds": 9},
    "save_weights_for_sampler": {"model_id": "MODEL", "path": None, "kind": "snapshot"},
    "load_weights": {"model_id": "MODEL", "path": "tinker://a/weights/b", "optimizer": True},
    "create_sampling_session": {
        "session_id": "SESSION",
        "sampling_session_seq_id": 0,
        "base_model": "tiny",
    },
    "asample": {
        "prompt": tokens([65, 66]),
        "base_model": "tiny",
        "num_samples": 1,
        "sampling_params": {"max_tokens": 2, "stop": ["x"], "top_k": 3, "top_p": 0.5, "seed": 1},
        "target_prompt_logprobs": tensor([[65]], "int64"),
        "topk_prompt_logprobs": 1,
    },
    "retrieve_future": {"request_id": "x"},
    "cancel_future": {"request_id": "x"},
    "weights_info": {"tinker_path": "tinker://a/weights/b"},
    "pause_model": {"model_id": "x"},
    "telemetry": {"events": [], "platform": "x"},
    "client/config": {"sdk_version": "1"},
}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("service"), max_models=10**6) as (client, _):
        client.begin()
        client.own = client.model(rank=1)
        yield client


def places(value, path=()):
    """Every place inside a body."""
    yield path
    parts = list(value.items()) if isinstance(value, dict) else []
    if isinstance(value, list):
        parts = list(enumerate(value[:3]))
    for key, inner in parts:
        yield from places(inner, (*path, key))


def put(body, path, value):
    body = copy.deepcopy(body)
    if not path:
        return value
    inner = body
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return body


def send(client, path, body):
    answer = client.http.post(f"/api/v1/{path}", json=body)
    assert answer.status_code < 500, (path, body, answer.text)
    if answer.status_code >= 400:
        assert answer.json()["error"]["message"]
        return
    found = answer.json()
    if "request_id" in found and path != "cancel_future":
        ended = client.result(found)
        assert ended.get("category", "user") == "user", (path, body, ended)


@pytest.mark.parametrize("path", BODIES)
@FEW
@given(data=st.data())
def test_any_json_is_answered(served, path, data):
    send(served, path, data.draw(JSON))


@pytest.mark.parametrize("path", BODIES)
@FEW
@given(data=st.data())
def test_a_body_with_something_else_in_it_is_answered(served, path, data):
    body = BODIES[path]
    names = {"MODEL": served.own, "SESSION": served.session}
    body = {k: names.get(v, v) if isinstance(v, str) else v for k, v in body.items()}
    if "forward" in path:
        key = "forward_input" if path == "forward" else "forward_backward_input"
        body[key] = {k: v for k, v in PASSED.items() if k != "loss_fn_config"}
    place = data.draw(st.sampled_from(list(places(body))))
    send(served, path, put(body, place, data.draw(JSON)))


@FEW
@given(
    data=st.lists(
        st.fixed_dictionaries(
            {
                "tokens": st.lists(st.integers(-2, 260), max_size=5),
                "targets": st.lists(st.integers(-2, 260), max_size=5),
                "weights": st.lists(st.floats(-(2.0**100), 2.0**100, width=32), max_size=5),
            }
        ),
        max_size=3,
    )
)
def test_any_datums_are_answered(served, data):
    datums = [
        {
            "model_input": tokens(one["tokens"]),
            "loss_fn_inputs": {
                "target_tokens": tensor(one["targets"], "int64"),
                "weights": tensor(one["weights"]),
            },
        }
        for one in data
    ]
    inner = {"data": datums, "loss_fn": "cross_entropy"}
    send(served, "forward_backward", {"model_id": served.own, "forward_backward_input": inner})


@pytest.mark.parametrize(
    "path", ["training_runs?limit=x", "training_runs/x", "samplers/x", "sessions/x", "x", ""]
)
def test_paths_that_lead_nowhere(served, path):
    assert served.http.get(f"/api/v1/{path}").status_code in (400, 404)
    assert served.http.post("/api/v1/auth/token", json={}).status_code == 400


@pytest.mark.parametrize("last", [None, 1])
def test_alternatives_and_targets_of_a_prompt_are_told_on_their_own(served, last):
    body = BODIES["asample"] | {"prompt": tokens([65, 66, 67])}
    body["target_prompt_logprobs"] = tensor([[66], [67]], "int64")
    if last:
        body |= {"prompt_logprobs": True, "prompt_logprobs_last_n": last}
    found = served.result(served.http.post("/api/v1/asample", json=body).json())
    alone = served.result(
        served.http.post(
            "/api/v1/asample", json={**BODIES["asample"], "prompt": body["prompt"],
            "target_prompt_logprobs": None, "prompt_logprobs": True},
        ).json()
    )  # fmt: skip
    told = alone["prompt_logprobs"]
    assert found["target_prompt_logprobs"]["data"] == pytest.approx(told[1:], abs=1e-5)
    assert [row is not None for row in found["topk_prompt_logprobs"]] == [False, True, True]
    if last:
        assert found["prompt_logprobs"] == [None, None, pytest.approx(told[2], abs=1e-5)]
