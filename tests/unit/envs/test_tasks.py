import asyncio
import random

import pytest

from evolute.engine import Engine
from evolute.envs import make_task, paired_difference, run_episode, task_names, validate, wilson
from evolute.envs.episode import observation_ids
from evolute.models import load_model
from evolute.types import ConfigError, Outcome, SamplingParams

GYM = ["reasoning-gym:chain_sum", "reasoning-gym:spell_backward", "reasoning-gym:basic_arithmetic"]
TINY = load_model("tiny")


@pytest.mark.parametrize("name", [*task_names(), *GYM])
def test_a_task_validates_itself(name):
    validate(make_task(name))


@pytest.mark.parametrize("name", ["addition-2", "reverse-word", "reasoning-gym:chain_sum"])
def test_splits_are_disjoint_and_repeatable(name):
    task = make_task(name)
    train, held = task.problems("train", 200, seed=1), task.problems("heldout", 100, seed=2)
    assert not {p.id for p in train} & {p.id for p in held}
    assert [p.id for p in task.problems("train", 200, seed=1)] == [p.id for p in train]


def test_a_small_family_says_so():
    with pytest.raises(ConfigError, match="ask for fewer"):
        make_task("addition-1").problems("train", 500)


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(ConfigError, match="addition-2"):
        make_task("adition-2")


def test_several_turns_are_recorded_token_by_token():
    task = make_task("guess-number")
    (problem,) = task.problems("train", 1)
    seen = []
    with Engine(TINY, page_size=4) as engine:
        inner = engine.agenerate

        async def spy(request):
            seen.append(request.prompt)
            return await inner(request)

        engine.agenerate = spy
        sampling = SamplingParams(max_new_tokens=5)
        rollout = asyncio.run(run_episode(task, problem, engine, sampling, seed=1))
    (sample,) = rollout.samples
    assert rollout.outcome in (Outcome.DONE, Outcome.TRUNCATED)
    assert sum(sample.loss_mask) < len(sample.loss_mask)
    whole = (*sample.prompt_ids, *sample.response_ids)
    assert all(whole[: len(prompt)] == prompt for prompt in seen)
    assert all(lp == 0.0 for lp, m in zip(sample.rollout_logprobs, sample.loss_mask) if not m)


def test_an_observation_is_tokenised_as_the_whole_chat_would_be():
    tokenizer = TINY.tokenizer
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    more = [{"role": "user", "content": "higher"}]
    before = tokenizer.chat(chat[:1]) + [*tokenizer.encode("a"), tokenizer.eos_token_id]
    added = observation_ids(tokenizer, more, before)
    assert before + added == tokenizer.chat([*chat, *more])


def test_a_failing_world_is_data():
    class Broken:
        name, max_new_tokens = "broken", 4

        def make(self, problem):
            raise OSError("no disk")

    (problem,) = make_task("addition-2").problems("train", 1)
    with Engine(TINY) as engine:
        rollout = asyncio.run(run_episode(Broken(), problem, engine, SamplingParams()))
    assert rollout.outcome is Outcome.FAILED and rollout.failure == "OSError"


def test_the_interval_covers_the_truth():
    source = random.Random(0)
    for p in (0.05, 0.5, 0.9):
        hits = 0
        for _ in range(400):
            interval = wilson(sum(source.random() < p for _ in range(60)), 60)
            hits += interval.low <= p <= interval.high
        assert hits / 400 > 0.92


def test_a_paired_gain_is_seen():
    before = {str(i): i % 4 == 0 for i in range(80)}
    after = {str(i): i % 2 == 0 for i in range(80)}
    gain = paired_difference(before, after)
    assert gain.mean == pytest.approx(0.25) and gain.low > 0
