"""The training API against the trainer in process: one gradient, one update, one sampler, to the
bit on a CPU in float32."""

import json
import shutil

import numpy as np
import pytest
import torch
from tinker_client import rl_datum, serving, text_datum

from evolute.models import LoraConfig, load_model
from evolute.train import TrainConfig
from evolute.train.settings import AlgorithmConfig, OptimizerConfig
from evolute.train.sft import SftConfig
from evolute.train.sft.trainer import SftTrainer
from evolute.train.tinker.models import state_path
from evolute.train.tinker.records import Future, Model
from evolute.train.trainer import Trainer, make_policy
from evolute.types import Outcome, Rollout, SamplingParams, TrainingSample

LORA = LoraConfig(rank=4, alpha=32.0)
ADAM = {"learning_rate": 1e-2, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "grad_clip_norm": 1.0}
OPTIMIZER = OptimizerConfig(lr=1e-2, beta2=0.99, warmup_steps=0, decay="constant")


def weights_of(service, model):
    """The adapter as it is on disk after the last step."""
    row = service.store.get(Model, model)
    lora, _ = service.states.read(state_path(row.id, row.state))
    return lora


@pytest.fixture
def session(tmp_path):
    with serving(tmp_path, micro_batch_tokens=60) as (client, service):
        client.begin()
        yield client, service


def same(ours, theirs):
    """A file's order of tensors is another one than the trainer's."""
    mine, others = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert mine.keys() == others.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor.detach(), others[name].detach()), name


def test_reinforcement_updates_are_those_of_the_trainer(session):
    """Groups with a prompt each, siblings that share it; two updates, so that the state counts."""
    client, service = session
    config = TrainConfig(
        model="tiny",
        seed=1,
        lora=LORA,
        optimizer=OPTIMIZER,
        steps=9,
        epochs=2,
        micro_batch_tokens=60,
        algorithm=AlgorithmConfig(advantage="dr_grpo", reduction="token_sum", anchor="rollout"),
    )
    trainer = Trainer(make_policy(load_model("tiny"), config), config)
    rng = np.random.default_rng(0)
    rollouts, data = [], []
    for group, prompt in enumerate((b"first question", b"another one")):
        rewards = rng.normal(size=3).astype(np.float32)
        for index, reward in enumerate(rewards):
            answer = rng.integers(0, 250, 3 + 2 * index).tolist()
            logprobs = [float(np.float32(x)) for x in -rng.uniform(2, 8, len(answer))]
            mask = (True,) * len(answer)
            sample = TrainingSample(tuple(prompt), tuple(answer), mask, tuple(logprobs))
            done = Rollout(str(group), group, index, float(reward), Outcome.DONE, (sample,))
            rollouts.append(done)
            advantage = float(reward) - float(np.mean([float(r) for r in rewards]))
            data.append(rl_datum(list(prompt), answer, logprobs, advantage))
    trainer.update(rollouts)
    model = client.model(rank=4, seed=1)
    for _ in range(config.epochs):
        client.train(model, data, "ppo")
        assert "metrics" in client.result(client.step(model, **ADAM))
    same(weights_of(service, model), trainer.policy.lora)


def test_supervised_updates_are_those_of_the_trainer(session):
    client, service = session
    config = SftConfig(model="tiny", seed=1, lora=LORA, optimizer=OPTIMIZER, micro_batch_tokens=60)
    trainer = SftTrainer(make_policy(load_model("tiny"), config), config, 9)
    texts = ["hello world", "a longer line of text", "hel and so on"]
    samples, data = [], []
    num = sum(len(text) - 3 for text in texts)
    for text in texts:
        ids = list(text.encode())
        count = len(ids) - 3
        samples.append(
            TrainingSample(tuple(ids[:3]), tuple(ids[3:]), (True,) * count, (0.0,) * count)
        )
        datum = text_datum(text)
        weights = datum["loss_fn_inputs"]["weights"]
        weights["data"] = [w / num for w in weights["data"]]
        data.append(datum)
    model = client.model(rank=4, seed=1)
    for _ in range(2):
        trainer.update(samples)
        client.train(model, data)
        assert "metrics" in client.result(client.step(model, **ADAM))
    same(weights_of(service, model), trainer.policy.lora)


def test_samples_are_those_of_the_engine(session):
    client, service = session
    model = client.model(rank=4, seed=1)
    for _ in range(2):
        client.train(model, [text_datum("hello world")])
        client.step(model)
    sampler = client.sampler(model, sampling_session_seq_id=0)["sampling_session_id"]
    params = {"max_tokens": 9, "seed": 5, "temperature": 0.8}
    told = client.result(client.sample(b"hel", sampler=sampler, n=3, params=params))
    service.engine.load_adapter("beside", weights_of(service, model))
    sampling = SamplingParams(max_new_tokens=9, seed=5, temperature=0.8, n=3)
    outputs = service.engine.generate([list(b"hel")], sampling, "beside")
    for one, output in zip(told["sequences"], outputs, strict=True):
        assert one["tokens"] == list(output.token_ids)
        assert one["logprobs"] == [float(np.float32(x)) for x in output.logprobs]


@pytest.mark.parametrize("look_ahead", [1, 8])
def test_look_ahead_changes_only_cost(tmp_path, look_ahead):
    """Against one request with all datums. Sums of floats in another order: 1e-5."""
    with serving(tmp_path, look_ahead=look_ahead) as (client, service):
        client.begin()
        data = [text_datum("hello there"), text_datum("hello again"), text_datum("other things")]
        whole, apart = client.model(0), client.model(1)
        client.train(whole, data)
        client.post("pause_model", {"model_id": apart})
        futures = [client.train(apart, [datum]) for datum in data]
        smooth = {"eps": 1.0}  # else the sign of a gradient that is nearly 0 decides
        stepped = client.step(apart, **smooth)
        client.post("resume_model", {"model_id": apart})
        client.result(client.step(whole, **smooth))
        assert "metrics" in client.result(stepped)
        batches = {service.store.get(Future, f["request_id"]).batch for f in futures}
        assert len(batches) == (1 if look_ahead > 1 else 3)
        one, other = (dict(weights_of(service, m).named_parameters()) for m in (whole, apart))
        for name, tensor in one.items():
            torch.testing.assert_close(tensor, other[name], rtol=1e-4, atol=1e-5, msg=name)


def test_a_service_that_died_goes_on_to_the_same_bits(tmp_path):
    """Its directory is copied in the midst of accumulation, as a kill leaves it."""
    data = [text_datum("hello there"), text_datum("hello again"), text_datum("other things")]

    def begin(client):
        client.begin()
        model = client.model(rank=4, seed=1)
        for _ in range(3):
            client.result(client.train(model, data[:2]))
            client.result(client.step(model))
        client.result(client.train(model, data[1:]))  # noted, and not applied yet
        return model

    def go_on(client, service, model):
        client.result(client.train(model, data[:1]))
        assert "metrics" in client.result(client.step(model))
        return weights_of(service, model)

    with serving(tmp_path / "one", look_ahead=1, state_every=2) as (client, service):
        model = begin(client)
        client.post("pause_model", {"model_id": model})
        waiting = client.train(model, data)  # not done when the copy is made
        with service.store.transaction():
            shutil.copytree(tmp_path / "one", tmp_path / "two")
        client.post("resume_model", {"model_id": model})
        answer = client.result(waiting)
        expected = go_on(client, service, model)
        seqs, session = dict(client.seqs), client.session
    with serving(tmp_path / "two", look_ahead=1, state_every=2) as (client, service):
        client.seqs, client.session = {model: seqs[model] - 2}, session
        client.post("resume_model", {"model_id": model})
        again = client.result(waiting)
        assert json.dumps(again) == json.dumps(answer)
        same(go_on(client, service, model), expected)
