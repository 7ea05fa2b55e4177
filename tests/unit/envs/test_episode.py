import asyncio
import logging
import time

import pytest
from worlds import OneWorld, World, problem, said

from evolute.envs import episode, evaluate, run_episode
from evolute.telemetry import snapshot
from evolute.testing import ByteTokenizer, ScriptedBackend
from evolute.types import (
    BackendError,
    Outcome,
    OutOfCapacity,
    PromptTooLong,
    RequestError,
    RewardError,
    SamplingParams,
    StepResult,
)

END = ByteTokenizer().eos_token_id


def play(world, backend=None, **sampling):
    sampling = SamplingParams(**{"max_new_tokens": 64, **sampling})
    backend = backend or ScriptedBackend(["one", "two", "three"])
    return asyncio.run(run_episode(OneWorld(lambda: world), problem(), backend, sampling))


def test_a_turn_goes_on_from_exactly_what_was_sampled():
    backend = ScriptedBackend(["one", "two", "three"])
    rollout = play(World(said("a"), said("b"), StepResult(reward=1.0)), backend)
    (sample,) = rollout.samples
    whole = (*sample.prompt_ids, *sample.response_ids)
    asked = [request.prompt for request in backend.requests]
    assert asked[0] == sample.prompt_ids
    for prompt, text in zip(asked, (b"one", b"two", b"three")):
        assert whole[: len(prompt)] == prompt
        assert whole[len(prompt) :][: len(text) + 1] == (*text, END)


def test_the_mask_holds_what_was_sampled_and_nothing_else():
    (sample,) = play(World(said("a"), StepResult())).samples
    trained = [id for id, mask in zip(sample.response_ids, sample.loss_mask) if mask]
    assert trained == [*b"one", END, *b"two", END]
    assert all(
        (logprob == -(id % 10) / 10) if mask else logprob == 0.0
        for id, mask, logprob in zip(sample.response_ids, sample.loss_mask, sample.rollout_logprobs)
    )
    assert sum(segment.num_tokens for segment in sample.weight_versions) == len(trained)


def test_after_the_last_turn_nothing_is_appended():
    last = StepResult(({"role": "user", "content": "well done"},), 1.0, done=True)
    (sample,) = play(World(last)).samples
    assert sample.response_ids == (*b"one", END) and all(sample.loss_mask)


def test_a_turn_that_was_cut_gets_its_end_from_the_template():
    (sample,) = play(World(said("a"), StepResult()), max_new_tokens=2).samples
    turn_end = 258  # ByteTokenizer's
    assert sample.response_ids[:3] == (*b"on", turn_end)
    assert sample.loss_mask[:3] == (True, True, False)


@pytest.mark.parametrize(
    ("answers", "sampling", "outcome"),
    [
        ([StepResult(reward=1.0)], {}, Outcome.DONE),
        ([StepResult(reward=1.0)], {"max_new_tokens": 2}, Outcome.TRUNCATED),
        ([StepResult(metadata={"truncated": True})], {}, Outcome.TRUNCATED),
        ([said("a"), StepResult()], {}, Outcome.DONE),
    ],
)
def test_an_outcome_says_whose_doing_the_end_was(answers, sampling, outcome):
    assert play(World(*answers), **sampling).outcome is outcome


def test_a_talk_that_outgrows_the_context_keeps_its_reward():
    backend = ScriptedBackend(["one"], context=60)
    world = World(*(said("a long answer of the world", reward=0.25) for _ in range(9)))
    rollout = play(world, backend)
    assert rollout.outcome is Outcome.TRUNCATED
    assert rollout.reward == 0.25 * len(world.actions) > 0


def test_a_question_that_does_not_fit_is_an_error_of_the_settings():
    with pytest.raises(PromptTooLong):
        play(World(StepResult()), ScriptedBackend(["one"], context=4))


def test_rewards_add_up_and_the_world_may_say_what_is_right():
    rollout = play(World(said("a", reward=0.2), StepResult(reward=0.3, metadata={"accuracy": 1.0})))
    assert rollout.reward == pytest.approx(0.5) and rollout.metrics["accuracy"] == 1.0
    shaped = play(World(said("a", reward=0.6), StepResult(reward=0.6, metadata={"accuracy": 0.0})))
    assert shaped.reward == pytest.approx(1.2) and shaped.metrics["accuracy"] == 0.0
    assert play(World(StepResult(reward=1.0))).metrics["accuracy"] == 1.0


def test_the_worlds_numbers_are_kept_beside_ours():
    rollout = play(World(StepResult(), metrics={"hints": 2, "turns": 99, "name": "x"}))
    assert rollout.metrics == {"hints": 2.0, "turns": 1.0, "accuracy": 0.0}


# -- failures are data -------------------------------------------------------


FAILURES = [
    (World(OSError("no disk")), None, "OSError", "no disk"),
    (World(RewardError("no verifier")), None, "RewardError", "no verifier"),
    (World(StepResult(reward=float("nan"))), None, "RewardError", "must be finite"),
    (World("fine"), None, "EpisodeError", "gave a str"),
    (World(said(None)), None, "EpisodeError", "role and content"),
    (World(SystemExit(3)), None, "EpisodeError", "SystemExit: 3"),
    (World(StopIteration()), None, "EpisodeError", "StopIteration"),
    (World(asyncio.CancelledError()), None, "EpisodeError", "CancelledError"),
    (World(RequestError("the judge's prompt")), None, "EpisodeError", "the judge's prompt"),
    (World(), ScriptedBackend([BackendError("gone")]), "BackendError", "gone"),
    (World(), ScriptedBackend([OutOfCapacity("full")]), "OutOfCapacity", "full"),
]


@pytest.mark.parametrize(("world", "backend", "failure", "text"), FAILURES)
def test_a_failure_is_recorded_by_its_class(world, backend, failure, text):
    def counted():
        return snapshot().get(f"envs/episodes_failed{{failure={failure}}}", 0.0)

    before = counted()
    rollout = play(world, backend)
    assert rollout.outcome is Outcome.FAILED and rollout.reward == 0.0
    assert rollout.failure == failure and text in rollout.metadata["error"]
    assert counted() == before + 1
    assert world.closed == 1


def test_what_was_sampled_before_a_failure_is_kept():
    rollout = play(World(said("a"), OSError("no disk")))
    (sample,) = rollout.samples
    assert bytes(id for id in sample.response_ids if id < 256).startswith(b"one")
    assert "two" in rollout.text


def test_an_aborted_generation_is_a_failure():
    class Aborting(ScriptedBackend):
        async def agenerate(self, request):
            task = asyncio.create_task(super().agenerate(request))
            await asyncio.sleep(0.01)
            self.abort(request.id)
            return await task

    rollout = play(World(StepResult()), Aborting(["a long answer"], delay_s=0.01))
    assert rollout.failure == "BackendError" and "abort" in rollout.metadata["error"]


def test_a_world_that_hangs_is_given_up(monkeypatch):
    class Hanging(World):
        def step(self, action):
            time.sleep(5)

    monkeypatch.setattr(episode, "ENV_TIMEOUT_S", 0.05)
    started = time.monotonic()
    rollout = play(Hanging())
    assert rollout.failure == "TimeoutError" and "step did not return" in rollout.metadata["error"]
    assert time.monotonic() - started < 4


def test_a_world_that_cannot_be_closed_costs_a_warning(caplog):
    class Sticky(World):
        def close(self):
            raise OSError("busy")

    with caplog.at_level(logging.WARNING, "evolute.envs"):
        assert play(Sticky(StepResult(reward=1.0))).reward == 1.0
    assert "busy" in caplog.text


def test_a_cancelled_episode_closes_its_world_and_is_no_failure():
    world = World(StepResult())
    backend = ScriptedBackend(["a long answer"], delay_s=0.05)

    async def cancel():
        playing = asyncio.create_task(
            run_episode(OneWorld(lambda: world), problem(), backend, SamplingParams())
        )
        await asyncio.sleep(0.1)
        playing.cancel()
        await asyncio.wait([playing])
        return playing.cancelled()

    assert asyncio.run(cancel()) and world.closed == 1


def test_several_completions_are_refused():
    with pytest.raises(RequestError, match="use 1"):
        play(World(StepResult()), n=2)


def test_each_turn_of_each_sibling_has_a_seed_of_its_own():
    backend = ScriptedBackend(["one"])
    task = OneWorld(lambda: World(said("a"), StepResult()))

    async def siblings():
        for index in (0, 1, 0):
            await run_episode(
                task, problem(), backend, SamplingParams(temperature=1.0), index=index, seed=5
            )

    asyncio.run(siblings())
    seeds = [request.sampling.seed for request in backend.requests]
    assert len(set(seeds[:4])) == 4 and seeds[4:] == seeds[:2]


# -- accuracy ----------------------------------------------------------------


def test_failed_episodes_are_counted_apart():
    answers = [StepResult(reward=1.0), OSError("x"), StepResult()] * 2
    worlds = iter([World(answer) for answer in answers])
    task = OneWorld(lambda: next(worlds))
    told = []
    accuracy = asyncio.run(
        evaluate(task, ScriptedBackend(), count=6, concurrency=1, on_progress=told.append)
    )
    assert (accuracy.n, accuracy.num_failed, accuracy.interval.mean) == (4, 2, 0.5)
    assert accuracy.failures == {"OSError": 2} and told == [1, 2, 3, 4, 5, 6]
    assert [r.problem_id for r in accuracy.rollouts] == [f"q{i}" for i in range(6)]


def test_an_error_of_the_settings_ends_every_episode_of_a_measurement():
    backend = ScriptedBackend(
        lambda request: PromptTooLong("too long") if b"q3" in bytes(request.prompt[6:8]) else "ok"
    )
    worlds = []

    def build():
        worlds.append(World(StepResult()))
        return worlds[-1]

    async def measure():
        with pytest.raises(PromptTooLong):
            await evaluate(OneWorld(build), backend, count=30, concurrency=4)
        return [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]

    assert asyncio.run(measure()) == []
    assert all(world.closed == 1 for world in worlds) and len(worlds) < 30
