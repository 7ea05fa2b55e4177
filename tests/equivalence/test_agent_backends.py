"""The same agent, seed and model in process and over HTTP with token ids: equal to the last bit."""

import asyncio

import pytest

from evolute.agents import AgentConfig, AgentPlayer
from evolute.engine import Engine
from evolute.server import create_app, serve_in_thread
from evolute.server.client import HttpBackend
from evolute.testing import SumTask


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
