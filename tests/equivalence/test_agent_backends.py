"""The same agent, seed and model in process and over HTTP with token ids: equal to the last bit."""

import asyncio
from dataclasses import replace

import pytest
import torch

from evolute.agents import AgentConfig, AgentPlayer
from evolute.engine import Engine
from evolute.models import load_model
from evolute.server import create_app, serve_in_thread
from evolute.server.client import HttpBackend
from evolute.testing import SumTask
from evolute.train.settings import TrainConfig
from evolute.train.trainer import Trainer, make_policy
from evolute.types.settings import from_mapping


@pytest.fixture(scope="module")
def engine():
    with Engine("tiny") as engine:
        yield engine


@pytest.mark.parametrize("form", ["auto", "function"])
@pytest.mark.parametrize("thinking", ["keep", "drop"])
def test_in_process_and_over_http_are_one_rollout(engine, form, thinking):
    config = AgentConfig(
        max_turns=3, max_new_tokens=16, temperature=1.0, form=form, thinking=thinking, stuck_after=0
    )

    async def rollouts(backend):
        task = SumTask()
        player = AgentPlayer(task, backend, config)
        plays = [
            player.play(problem, group=group, index=index, seed=3)
            for group, problem in enumerate(task.problems("train", 2))
            for index in range(2)
        ]
        return await asyncio.gather(*plays)

    async def over_http(url):
        async with HttpBackend(url, "tiny", tokenizer=engine.tokenizer) as backend:
            return await rollouts(backend)

    here = asyncio.run(rollouts(engine))
    with serve_in_thread(create_app(engine, served_names=["tiny"])) as server:
        there = asyncio.run(over_http(server.url))
    assert here == there
    samples = [sample for rollout in here for sample in rollout.samples]
    assert all(rollout.failure is None for rollout in here) and len(samples) == 4
    assert sum(sum(sample.loss_mask) for sample in samples) > 4 * 3
    assert all(segment.version == 0 for s in samples for segment in s.weight_versions)


def test_what_is_trained_on_is_what_the_engine_would_say_again(engine):
    """The recorded log-probabilities are those of the whole conversation, scored in one piece."""
    from evolute.types import GenerateRequest, SamplingParams

    async def check():
        task = SumTask()
        player = AgentPlayer(task, engine, AgentConfig(max_turns=3, max_new_tokens=16))
        (problem,) = task.problems("train", 1)
        rollout = await player.play(problem, group=0, index=0, seed=0)
        for sample in rollout.samples:
            whole = (*sample.prompt_ids, *sample.response_ids)
            scoring = SamplingParams(max_new_tokens=0, temperature=1.0, prompt_logprobs=True)
            (output,) = await engine.agenerate(GenerateRequest(whole, scoring))
            told = output.prompt_logprobs[len(sample.prompt_ids) :]
            for logprob, again, is_trained in zip(sample.rollout_logprobs, told, sample.loss_mask):
                assert not is_trained or logprob == pytest.approx(again, abs=2e-2)

    asyncio.run(check())


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean", "prompt_mean"])
def test_one_sample_a_trajectory_and_one_a_call_give_the_same_update(engine, reduction):
    """As real gradients of a real model: the merged samples' are the step-wise ones'."""
    torch.manual_seed(0)
    algorithm = {"advantage": "rloo", "reduction": reduction}
    config = from_mapping(TrainConfig, {"model": "tiny", "algorithm": algorithm})
    model = load_model("tiny")

    async def rollouts(merge):
        settings = AgentConfig(max_turns=3, max_new_tokens=12, stuck_after=0, merge_samples=merge)
        player = AgentPlayer(SumTask(), engine, settings)
        (problem,) = SumTask().problems("train", 1)
        plays = [player.play(problem, group=0, index=index, seed=4) for index in range(3)]
        return [replace(r, reward=float(r.index == 1)) for r in await asyncio.gather(*plays)]

    def updated(merge):
        played = asyncio.run(rollouts(merge))
        trainer = Trainer(make_policy(model, config), config)
        report = trainer.update(played)
        samples = sum(len(rollout.samples) for rollout in played)
        return samples, report, [p.grad.clone() for p in trainer.policy.parameters()]

    few, merged, gradients = updated(True)
    many, stepwise, others = updated(False)
    assert (few, many) == (3, 9)
    assert merged.num_tokens == stepwise.num_tokens > 0
    norm = merged.metrics["grad_norm"]
    assert norm > 0 and stepwise.metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)
    for one, other in zip(gradients, others):
        torch.testing.assert_close(one, other, atol=1e-6 * norm, rtol=1e-3)
