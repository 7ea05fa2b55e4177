"""One agent, seed and model in process, over HTTP with token ids, over the training API: the same
tokens, masks and log-probabilities, and the same parameters after an update."""

import asyncio
import io
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from tinker_client import rl_datum, serving

from evolute.agents import AgentConfig, AgentPlayer
from evolute.engine import Engine
from evolute.models import load_model, load_peft
from evolute.server import create_app, serve_in_thread
from evolute.server.client import HttpBackend
from evolute.testing import SumTask
from evolute.train.settings import TrainConfig
from evolute.train.trainer import Trainer, make_policy
from evolute.types import FinishReason, Output, VersionSegment
from evolute.types.settings import from_mapping

AGENT = AgentConfig(max_turns=3, max_new_tokens=12, temperature=1.0, stuck_after=0)
RANK, ALPHA, SEED, LR, BETA2, EPS, CLIP = 4, 8.0, 11, 0.01, 0.95, 1e-8, 1.0


class ThroughTheApi:
    """The training API as a backend: `asample` on the base model, then its future."""

    def __init__(self, client, tokenizer):
        self.client, self.tokenizer, self.model_name = client, tokenizer, "tiny"

    async def agenerate(self, request):
        return await asyncio.to_thread(self._ask, request)

    def _ask(self, request):
        asked = request.sampling
        params = {
            "max_tokens": asked.max_new_tokens,
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            "top_k": asked.top_k or -1,
            "seed": asked.seed,
        }
        if asked.stop or asked.stop_token_ids:
            params["stop"] = [*asked.stop] or [*asked.stop_token_ids]
        future = self.client.sample(request.prompt, base_model="tiny", n=asked.n, params=params)
        found = self.client.result(future)
        return [self._output(one, index) for index, one in enumerate(found["sequences"])]

    def _output(self, sequence, index):
        ids = tuple(sequence["tokens"])
        has_stopped = sequence["stop_reason"] == "stop"
        end = ids and ids[-1] in self.tokenizer.stop_token_ids
        return Output(
            text=self.tokenizer.decode(ids[:-1] if end else ids),
            token_ids=ids,
            logprobs=tuple(sequence["logprobs"]),
            finish_reason=FinishReason.STOP if has_stopped else FinishReason.LENGTH,
            cached_tokens=0,
            weight_version=0,
            prompt_tokens=0,
            weight_versions=(VersionSegment(0, len(ids)),),
            index=index,
        )


async def _rollouts(backend):
    task = SumTask()
    player = AgentPlayer(task, backend, AGENT)
    plays = [
        player.play(problem, group=group, index=index, seed=5)
        for group, problem in enumerate(task.problems("train", 2))
        for index in range(3)
    ]
    return await asyncio.gather(*plays)


@pytest.fixture(scope="module")
def ways(tmp_path_factory):
    """Rollouts of the three ways, and the client of the third."""
    with Engine("tiny", context=2048, memory_mb=64) as engine:
        here = asyncio.run(_rollouts(engine))

        async def over_http(url):
            async with HttpBackend(url, "tiny", tokenizer=engine.tokenizer) as backend:
                return await _rollouts(backend)

        with serve_in_thread(create_app(engine, served_names=["tiny"])) as server:
            there = asyncio.run(over_http(server.url))
        place = tmp_path_factory.mktemp("service")
        with serving(place, engine=engine, alpha=ALPHA) as (client, _):
            client.begin()
            api = asyncio.run(_rollouts(ThroughTheApi(client, engine.tokenizer)))
            yield here, there, api, client


def test_tokens_masks_and_logprobs_are_the_same_bits(ways):
    """The training API sends log-probabilities in single precision."""
    here, there, api, _ = ways
    assert here == there
    for ours, theirs in zip(here, api, strict=True):
        for one, other in zip(ours.samples, theirs.samples, strict=True):
            assert other.prompt_ids == one.prompt_ids
            assert other.response_ids == one.response_ids
            assert other.loss_mask == one.loss_mask
            assert np.array_equal(*(np.float32(s.rollout_logprobs) for s in (one, other)))
    trained = sum(sum(s.loss_mask) for rollout in here for s in rollout.samples)
    assert all(r.failure is None for r in (*here, *there, *api)) and trained > 6 * 3


def test_the_updates_are_the_same(ways, tmp_path):
    """Two steps, as the first of Adam has the gradient's signs alone; and its norms, which Adam
    does not show."""
    here, there, api, client = ways
    rewards = [1.0, 0.0, 0.5, 0.0, 1.0, 0.25]  # the model earns none; contrast is what is learned
    (ours, norms), (theirs, _) = (_trained_here(_with(rewards, r)) for r in (here, there))
    through, told = _trained_through_the_api(client, api, rewards, tmp_path)
    begin = dict(_policy().lora.named_parameters())
    assert told == pytest.approx(norms, rel=1e-4) and norms[0] > 0
    assert ours.keys() == through.keys() == begin.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
        torch.testing.assert_close(through[name], value, rtol=0, atol=1e-6, msg=name)
    assert max(float((v - begin[n]).detach().abs().max()) for n, v in through.items()) > LR / 2


def _with(rewards, rollouts):
    return [replace(r, reward=reward) for r, reward in zip(rollouts, rewards, strict=True)]


def _config():
    algorithm = {"advantage": "rloo", "reduction": "token_sum", "anchor": "rollout"}
    algorithm["loss"] = {"name": "importance_sampling"}
    adam = {"lr": LR, "beta2": BETA2, "warmup_steps": 0, "decay": "constant", "max_grad_norm": CLIP}
    values = {"model": "tiny", "seed": SEED, "algorithm": algorithm, "optimizer": adam}
    return from_mapping(TrainConfig, values | {"lora": {"rank": RANK, "alpha": ALPHA}})


def _policy():
    return make_policy(load_model("tiny"), _config())


def _trained_here(rollouts):
    """Adapters after two steps: on all rollouts, then on those of the first problem."""
    trainer = Trainer(_policy(), _config())
    parts = (rollouts, rollouts[:3])
    norms = [trainer.update(part).metrics["grad_norm"] for part in parts]
    return {n: p.detach().clone() for n, p in trainer.policy.lora.named_parameters()}, norms


def _trained_through_the_api(client, rollouts, rewards, directory):
    """Leave-one-out advantages as the cookbook computes them: on the client."""
    model = client.model(rank=RANK, seed=SEED)
    data = []
    for group in (range(3), range(3, 6)):
        for i in group:
            others = [rewards[j] for j in group if j != i]
            (sample,) = rollouts[i].samples
            data.append(_datum(sample, rewards[i] - sum(others) / 2))
    adam = {"learning_rate": LR, "beta2": BETA2, "eps": EPS, "grad_clip_norm": CLIP}
    norms = []
    for part in (data, data[:3]):
        passed = client.result(client.train(model, part, "importance_sampling"))
        assert "error" not in passed, passed
        norms.append(client.result(client.step(model, **adam))["metrics"]["grad_norm"])
    client.sampler(model, path="after")
    place = f"/api/v1/training_runs/{model}/checkpoints/sampler_weights/after/archive"
    with tarfile.open(fileobj=io.BytesIO(client.http.get(place).content)) as tar:
        tar.extractall(directory, filter="data")
    return dict(load_peft(directory).named_parameters()), norms


def _datum(sample, advantage):
    """Tokens that the model did not sample have no advantage, as the mask says."""
    datum = rl_datum(sample.prompt_ids, sample.response_ids, sample.rollout_logprobs, advantage)
    told, before = datum["loss_fn_inputs"]["advantages"], len(sample.prompt_ids) - 1
    told["data"][before:] = [advantage * bool(m) for m in sample.loss_mask]
    return datum
