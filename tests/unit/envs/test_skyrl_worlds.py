"""Worlds written for skyrl-gym run as they are: `step` answers with a dict."""

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import OneWorld, problem

from evolute.envs import run_episode
from evolute.envs.step import read_step
from evolute.envs.transcript import Transcript
from evolute.testing import ByteTokenizer, ScriptedBackend
from evolute.types import (
    EpisodeError,
    FinishReason,
    Outcome,
    Output,
    RewardError,
    SamplingParams,
    StepResult,
    VersionSegment,
)

TOKENIZER = ByteTokenizer()


class Search:
    """A world in skyrl-gym's form: the model's text up to </search> counts, then a result comes."""

    def __init__(self, cut=lambda action: action.split("</search>")[0] + "</search>"):
        self.turns, self.actions, self.cut = 0, [], cut

    def init(self, prompt):
        return [{"role": "system", "content": "search"}, *prompt], {"tools": 1}

    def step(self, action):
        self.turns += 1
        self.actions.append(action)
        if "<answer>" in action:
            right = "<answer>4</answer>" in action
            return {"observations": [], "reward": float(right), "done": True, "metadata": {}}
        found = {"role": "user", "content": "<information>2+2=4</information>"}
        return {
            "observations": [found],
            "reward": 0,
            "done": False,
            "metadata": {"queries": 1},
            "postprocessed_action": self.cut(action),
        }

    def close(self):
        return None

    def get_metrics(self):
        return {"searches": self.turns - 1, "kind": "search"}


def play(world, answers):
    backend = ScriptedBackend(answers)
    task = OneWorld(lambda: world)
    rollout = asyncio.run(run_episode(task, problem(), backend, SamplingParams(max_new_tokens=80)))
    return rollout, [request.prompt for request in backend.requests]


def test_a_world_of_dicts_is_played_to_its_end():
    world = Search()
    rollout, _ = play(world, ["<search>2+2</search>", "<answer>4</answer>"])
    assert rollout.outcome is Outcome.DONE and rollout.reward == 1.0
    assert rollout.metrics == {"searches": 1.0, "turns": 2.0, "accuracy": 1.0}
    assert "[user] <information>" in rollout.text


def test_an_action_that_the_world_shortens_keeps_its_sampled_tokens():
    rollout, prompts = play(
        Search(), ["<search>2+2</search> and I made this up", "<answer>4</answer>"]
    )
    (sample,) = rollout.samples
    whole = (*sample.prompt_ids, *sample.response_ids)
    assert whole[: len(prompts[1])] == prompts[1]
    trained = bytes(i for i, m in zip(sample.response_ids, sample.loss_mask) if m and i < 256)
    assert trained == b"<search>2+2</search><answer>4</answer>"
    assert sum(segment.num_tokens for segment in sample.weight_versions) == sum(sample.loss_mask)
    assert "made this up" not in rollout.text
    assert "replaced_turns" not in rollout.metrics


def test_words_that_the_world_puts_in_the_models_mouth_are_not_trained():
    rollout, prompts = play(
        Search(cut=lambda action: action.upper()), ["<search>x</search>", "<answer>4</answer>"]
    )
    (sample,) = rollout.samples
    assert b"<SEARCH>X</SEARCH>" in bytes(id for id in prompts[1] if id < 256)
    trained = bytes(i for i, m in zip(sample.response_ids, sample.loss_mask) if m and i < 256)
    assert trained == b"<answer>4</answer>"
    assert rollout.metrics["replaced_turns"] == 1.0


def test_the_last_action_stays_as_it_was_sampled():
    class Tidy(Search):
        def step(self, action):
            return {**super().step(action), "postprocessed_action": "tidied"}

    rollout, _ = play(Tidy(), ["<answer>4</answer> indeed"])
    (sample,) = rollout.samples
    assert sample.response_ids == (*b"<answer>4</answer> indeed", TOKENIZER.eos_token_id)
    assert all(sample.loss_mask)


def spoken(text, versions):
    """An output of the model, some of whose tokens each version sampled."""
    ids = (*text.encode(), TOKENIZER.eos_token_id)
    ends = [0, *sorted(min(v, len(ids)) for v in versions), len(ids)]
    segments = tuple(
        VersionSegment(i, b - a) for i, (a, b) in enumerate(itertools.pairwise(ends)) if b > a
    )
    logprobs = tuple(-float(i + 1) for i in range(len(ids)))
    return Output(text, ids, logprobs, FinishReason.STOP, 0, 0, weight_versions=segments)


@given(
    before=st.text(max_size=8),
    text=st.text(max_size=12),
    shown=st.integers(0, 12) | st.text(max_size=6),
    versions=st.lists(st.integers(0, 20), max_size=3),
)
def test_replacing_an_action_never_breaks_the_record(before, text, shown, versions):
    record = Transcript([1])
    record.sampled(spoken(before, []))
    record.observed([7, 8], "\n")
    start = len(record.ids)
    output = spoken(text, versions)
    record.sampled(output)
    wanted = text[:shown] if isinstance(shown, int) else shown
    record.replaced(wanted, TOKENIZER)
    sample = record.sample()
    said, mask = sample.response_ids[start:], sample.loss_mask[start:]
    assert TOKENIZER.decode(said) == wanted
    if text.startswith(wanted):  # shortened: all of it sampled, with its own log-probabilities
        assert all(mask) and said == output.token_ids[: len(said)]
        assert sample.rollout_logprobs[start:] == output.logprobs[: len(said)]
    else:
        assert not any(mask) and set(sample.rollout_logprobs[start:]) <= {0.0}
    assert sum(s.num_tokens for s in sample.weight_versions) == sum(sample.loss_mask)
    assert all(s.num_tokens > 0 for s in sample.weight_versions)


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        ({"reward": 1.0, "done": True}, EpisodeError, r"missing: \['observations'\]"),
        (
            {"observations": [], "reward": 1.0, "done": True, "info": {}},
            EpisodeError,
            r"unknown: \['info'\]",
        ),
        ({"observations": [], "reward": None, "done": True}, RewardError, "must be one number"),
        ({"observations": [], "reward": [1, 0], "done": True}, RewardError, "one number"),
        ({"observations": [], "reward": float("inf"), "done": True}, RewardError, "finite"),
        ({"observations": ["hello"], "reward": 0, "done": False}, EpisodeError, "dict of texts"),
        (([], 1.0, True), EpisodeError, "gave a tuple"),
    ],
)
def test_an_answer_that_makes_no_sense_says_why(answer, error, said):
    with pytest.raises(error, match=said):
        read_step(answer)


def test_a_whole_answer_is_read():
    message = {"role": "user", "content": "x"}
    answer = {"observations": [message], "reward": 1, "done": False, "metadata": {"a": 1}}
    assert read_step(answer) == StepResult((message,), 1.0, False, {"a": 1}, None)
    assert read_step({"observations": None, "reward": True, "done": 1}) == StepResult(reward=1.0)
