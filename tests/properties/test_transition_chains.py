"""Transitions to samples: every sampled token is trained exactly once, whatever the agents do."""

from hypothesis import given
from hypothesis import strategies as st

from evolute.agents import Transition, samples_of
from evolute.train.credit import credit
from evolute.train.settings import TrainConfig
from evolute.types import Outcome, Rollout, VersionSegment
from evolute.types.settings import from_mapping

IDS = st.lists(st.integers(0, 5), min_size=0, max_size=4)  # few ids: prefixes happen by chance
MOVE = st.tuples(
    st.sampled_from(["main", "main.1", "main.2"]),
    st.sampled_from(["append", "append", "reset", "cut"]),
    IDS,
    st.lists(st.integers(0, 5), min_size=1, max_size=4),
)


@st.composite
def histories(draw):
    """Calls of up to three agents, which append, clear their history, or cut its end."""
    seen: dict[str, list[int]] = {}
    calls = []
    for number, (agent, move, new, action) in enumerate(draw(st.lists(MOVE, max_size=12))):
        past = seen.get(agent, [0])
        if move == "reset":
            past = [0]
        elif move == "cut":
            past = past[: max(1, len(past) - 2)]
        prompt = [*past, *new]
        logprobs = tuple(-(number * 10 + k + 1) / 1000 for k in range(len(action)))
        versions = (VersionSegment(number, len(action)),)
        calls.append(Transition(tuple(prompt), tuple(action), logprobs, versions, agent))
        seen[agent] = [*prompt, *action]
    return calls


def trained(samples):
    """(everything before the token, token, log-probability) of each trained token."""
    found = []
    for sample in samples:
        for place, is_trained in enumerate(sample.loss_mask):
            if is_trained:
                before = (*sample.prompt_ids, *sample.response_ids[:place])
                logprob = sample.rollout_logprobs[place]
                found.append((before, sample.response_ids[place], logprob))
    return sorted(found)


@given(histories())
def test_merging_changes_no_trained_token_and_nothing_it_follows(calls):
    assert trained(samples_of(calls)) == trained(samples_of(calls, merge=False))


@given(histories())
def test_the_masks_hold_exactly_what_was_sampled(calls):
    samples = samples_of(calls)
    sampled = sorted(logprob for call in calls for logprob in call.logprobs)
    assert (
        sorted(p for s in samples for p, m in zip(s.rollout_logprobs, s.loss_mask) if m) == sampled
    )
    assert all(p == 0.0 for s in samples for p, m in zip(s.rollout_logprobs, s.loss_mask) if not m)
    for sample in samples:
        assert sum(each.num_tokens for each in sample.weight_versions) == sum(sample.loss_mask)


@given(histories())
def test_agents_do_not_touch_one_another(calls):
    together = samples_of(calls)
    agents = dict.fromkeys(call.agent for call in calls)
    apart = [s for a in agents for s in samples_of([c for c in calls if c.agent == a])]
    assert list(together) == apart


def rollouts(histories, merge):
    made = []
    for index, calls in enumerate(histories):
        samples = samples_of(calls, merge=merge)
        made.append(
            Rollout(
                f"p{index // 2}", index // 2, index % 2, float(index % 3), Outcome.DONE, samples
            )
        )
    return made


@given(
    st.lists(histories(), min_size=2, max_size=4),
    st.sampled_from(
        [
            "token_mean",
            "sequence_mean",
            "prompt_mean",
            "seq_mean_token_sum_norm",
            "seq_mean_token_sum",
            "token_sum",
        ]
    ),
)
def test_merged_trajectories_have_the_gradient_weights_of_their_steps(calls, reduction):
    """Each trained token's advantage times weight; so an agent whose history is rewritten more
    often has no more weight."""
    algorithm = {"advantage": "dr_grpo", "reduction": reduction}
    if reduction == "seq_mean_token_sum_norm":
        algorithm["max_length"] = 64
    config = from_mapping(TrainConfig, {"algorithm": algorithm})

    def weights(merge):
        return sorted(
            (round(one.advantage, 9), logprob)
            for one in credit(rollouts(calls, merge), config)
            for logprob, is_trained in zip(one.sample.rollout_logprobs, one.sample.loss_mask)
            if is_trained
        )

    assert weights(True) == weights(False)
