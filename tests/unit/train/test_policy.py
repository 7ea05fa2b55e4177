"""The savings of training are exact: packing, chunked log-probabilities, micro-batches."""

import pytest
import torch

from evolute.models import LoraConfig, causal_attention, load_model
from evolute.train import Policy, TrainConfig, Trainer
from evolute.train.policy import to_tensors
from evolute.train.rollouts import pack
from evolute.train.trainer import credit
from evolute.types import Outcome, Rollout, TrainingSample

TINY = load_model("tiny")


def policy():
    made = Policy(TINY, LoraConfig(rank=4), seed=1)
    torch.manual_seed(0)
    with torch.no_grad():
        for _, b in made.lora.tensors.values():
            b.normal_(std=0.05)
    return made


def rollouts(groups=3, siblings=4):
    generator = torch.Generator().manual_seed(0)

    def ids(count):
        return tuple(torch.randint(0, 256, (count,), generator=generator).tolist())

    made = []
    for group in range(groups):
        prompt = ids(5 + group)
        for index in range(siblings):
            response = ids(2 + (index * 3 + group) % 6)
            mask = tuple(i != 1 for i in range(len(response)))  # one observed token
            logprobs = tuple(-2.0 if trained else 0.0 for trained in mask)
            sample = TrainingSample(prompt, response, mask, logprobs)
            reward = float(index % 2)
            made.append(Rollout(str(group), group, index, reward, Outcome.DONE, (sample,)))
    return made


@pytest.fixture(params=[torch.float64, torch.float32])
def tolerance(request):
    """In float64 a difference is a mistake; in float32 sums of another order differ by a few of
    its steps, and how many depends on the number of threads."""
    torch.set_default_dtype(request.param)
    yield {torch.float64: 1e-10, torch.float32: 1e-4}[request.param]
    torch.set_default_dtype(torch.float32)


def test_a_shared_prompt_gives_the_same_logprobs_as_alone(tolerance):
    made, config = policy(), TrainConfig(model="tiny")
    (batch,) = pack(credit(rollouts(), config), 10_000)
    tokens, scores = made.scores(batch, temperature=0.7)
    expected = []
    for group in batch:
        for member in group.members:
            ids = torch.tensor([*group.prompt, *member.sample.response_ids])
            attend = causal_attention([len(ids)])
            hidden = made.decoder(ids, torch.arange(len(ids)), attend, made.lora.delta)
            logprobs = (hidden @ made.decoder.head_weight.T / 0.7).log_softmax(-1)
            for i, trained in enumerate(member.sample.loss_mask):
                at = len(group.prompt) + i
                if trained:
                    expected.append(logprobs[at - 1, ids[at]])
    close = {"atol": tolerance, "rtol": tolerance}
    torch.testing.assert_close(scores.logprobs, torch.stack(expected), **close)
    weights = torch.linspace(-1, 1, len(expected))
    ours = torch.autograd.grad((scores.logprobs * weights).sum(), made.parameters())
    theirs = torch.autograd.grad((torch.stack(expected) * weights).sum(), made.parameters())
    for one, two in zip(ours, theirs):
        torch.testing.assert_close(one, two, **close)
    assert len(tokens.targets) == len(expected)


@pytest.mark.parametrize("budget", [12, 20, 10_000])
def test_the_micro_batch_split_changes_nothing(budget):
    def gradient(tokens):
        made = policy()
        config = TrainConfig(model="tiny", micro_batch_tokens=tokens)
        credited = credit(rollouts(), config)
        for batch in pack(credited, tokens):
            packed, scores = made.scores(batch, 1.0)
            (scores.logprobs * packed.advantages).sum().backward()
        return torch.cat([p.grad.flatten() for p in made.parameters()])

    torch.testing.assert_close(gradient(budget), gradient(1000), atol=1e-6, rtol=1e-5)


def test_entropy_and_targets_are_those_of_the_distribution():
    made = policy()
    (batch,) = pack(credit(rollouts(1), TrainConfig(model="tiny")), 10_000)
    tokens, scores = made.scores(batch, 1.0)
    assert (scores.entropy > 0).all() and (scores.logprobs < 0).all()
    assert torch.equal(tokens.targets, to_tensors(batch).targets)


def test_the_first_ratio_is_exactly_one_and_failures_are_counted():
    trainer = Trainer(policy(), TrainConfig(model="tiny"))
    failed = Rollout("x", 0, 9, 0.0, Outcome.FAILED, (), failure="TimeoutError")
    report = trainer.update([*rollouts(), failed])
    assert report.metrics["ratio_max"] == 1.0
    assert report.failures == {"TimeoutError": 1}
    assert report.num_tokens == sum(sum(r.samples[0].loss_mask) for r in rollouts())


def test_equal_rewards_teach_nothing():
    trainer = Trainer(policy(), TrainConfig(model="tiny"))
    before = trainer.policy.lora.fingerprint()
    same = [Rollout(r.problem_id, r.group, r.index, 1.0, r.outcome, r.samples) for r in rollouts()]
    assert trainer.update(same).num_tokens == 0
    assert trainer.policy.lora.fingerprint() == before
