"""A thin client of the training API, and a service in this process for it to talk to."""

import contextlib
import time

import numpy as np
from fastapi.testclient import TestClient

from evolute.engine import Engine
from evolute.models import load_model
from evolute.server import create_app
from evolute.train.tinker import Service, ServiceConfig, routers

WAIT_S = 60


@contextlib.contextmanager
def serving(directory, *, api_keys=None, engine=None, **settings):
    """(client, service) on the tiny model."""
    model = load_model("tiny")
    own = engine or Engine(model, context=256, memory_mb=64)
    config = ServiceConfig(directory=str(directory), poll_s=1.0, **settings)
    try:
        with contextlib.closing(Service(own, model, config, ["tiny"])) as service:
            app = create_app(
                own, served_names=["tiny"], api_keys=api_keys, extra_routers=[routers(service)]
            )
            with TestClient(app, raise_server_exceptions=False) as http:
                yield Client(http), service
    finally:
        if engine is None:
            own.close()


class Client:
    """One session; requests of a model are numbered from 1, as the published client does."""

    def __init__(self, http, headers=None):
        self.http, self.headers = http, headers or {}
        self.session = None
        self.seqs = {}
        self.samples = 0

    def as_key(self, key):
        return Client(self.http, {"X-API-Key": key})

    def post(self, path, body, status=200):
        answer = self.http.post(f"/api/v1/{path}", json=body, headers=self.headers)
        assert answer.status_code == status, (path, answer.status_code, answer.text)
        return answer.json()

    def get(self, path, status=200):
        answer = self.http.get(f"/api/v1/{path}", headers=self.headers)
        assert answer.status_code == status, (path, answer.status_code, answer.text)
        return answer.json()

    def begin(self):
        body = {"tags": [], "user_metadata": None, "sdk_version": "0"}
        self.session = self.post("create_session", body)["session_id"]
        return self.session

    def result(self, future):
        """What came of a future; its error too."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            found = self.post("retrieve_future", {"request_id": future["request_id"]})
            if found.get("type") != "try_again":
                return found
        raise AssertionError(f"{future} has not ended in {WAIT_S} s")

    def model(self, seq=0, **lora):
        body = {"session_id": self.session, "model_seq_id": seq, "base_model": "tiny"}
        lora = {"rank": 4, "seed": 1, "train_unembed": False} | lora
        found = self.result(self.post("create_model", body | {"lora_config": lora}))
        assert "error" not in found, found
        return found["model_id"]

    def ask(self, verb, model, status=200, **body):
        seq = self.seqs[model] = self.seqs.get(model, 0) + 1
        return self.post(verb, {"model_id": model, "seq_id": seq} | body, status)

    def train(self, model, data, loss="cross_entropy", config=None, path="forward_backward"):
        inner = {"data": data, "loss_fn": loss}
        if config:
            inner["loss_fn_config"] = config
        key = "forward_input" if path == "forward" else "forward_backward_input"
        return self.ask(path, model, **{key: inner})

    def step(self, model, **adam):
        adam = {"learning_rate": 0.01} | adam
        return self.ask("optim_step", model, adam_params=adam, type="optim_step")

    def sampler(self, model, **body):
        found = self.result(self.ask("save_weights_for_sampler", model, **body))
        assert "error" not in found, found
        return found

    def sample(self, prompt, *, sampler=None, n=1, status=200, **body):
        params = {"max_tokens": 6, "temperature": 1.0, "seed": 7} | body.pop("params", {})
        asked = {"prompt": tokens(prompt), "sampling_params": params, "num_samples": n}
        if sampler:
            self.samples += 1
            asked |= {"sampling_session_id": sampler, "seq_id": self.samples}
        return self.post("asample", asked | body, status)


def tokens(ids):
    return {"chunks": [{"type": "encoded_text", "tokens": [int(i) for i in ids]}]}


def tensor(values, dtype="float32"):
    array = np.asarray(values)
    return {"data": array.ravel().tolist(), "dtype": dtype, "shape": list(array.shape)}


def text_datum(text, prompt=3):
    """Cross-entropy on all but the first `prompt` characters."""
    ids = list(text.encode())
    weights = [float(i >= prompt) for i in range(1, len(ids))]
    inputs = {"target_tokens": tensor(ids[1:], "int64"), "weights": tensor(weights)}
    return {"model_input": tokens(ids[:-1]), "loss_fn_inputs": inputs}


def rl_datum(prompt, answer, logprobs, advantage):
    """As the cookbook makes it of a sampled answer."""
    before = len(prompt) - 1
    inputs = {
        "target_tokens": tensor([0] * before + list(answer), "int64"),
        "logprobs": tensor([0.0] * before + list(logprobs)),
        "advantages": tensor([0.0] * before + [advantage] * len(answer)),
    }
    return {"model_input": tokens([*prompt, *answer[:-1]]), "loss_fn_inputs": inputs}
