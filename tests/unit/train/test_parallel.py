"""Two ranks come to the update of one process; who computes what; whose weights are different."""

import dataclasses
import multiprocessing
import pickle
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from evolute.models import LoraConfig, load_model
from evolute.train import TrainConfig, Trainer, make_policy
from evolute.train.algorithms import KlConfig, LossConfig
from evolute.train.checkpoint import restore, state_of
from evolute.train.parallel import Alone, ProcessPeers, full, shares, spread
from evolute.train.ray.group import check_equal
from evolute.train.rollouts.packing import Credited, pack
from evolute.train.settings import AlgorithmConfig
from evolute.train.sharded import ShardedPolicy
from evolute.types import Outcome, Rollout, TrainingError, TrainingSample

pytestmark = pytest.mark.timeout(300)
TINY = load_model("tiny")
BASE = TrainConfig(
    model="tiny",
    prompts_per_step=3,
    samples_per_prompt=4,
    micro_batch_tokens=48,
    steps=4,
    update_nice=0,
    lora=LoraConfig(rank=4),
)


def of(**changes):
    return dataclasses.replace(BASE, **changes)


def algorithm(**changes):
    return AlgorithmConfig(**changes)


CASES = {
    "grpo": BASE,
    "many passes": of(epochs=2, mini_batches=2),
    "kl": of(algorithm=algorithm(kl=KlConfig(loss=0.1))),
    "critic": of(epochs=2, algorithm=algorithm(advantage="gae")),
    "covariance": of(
        algorithm=algorithm(
            anchor="policy", reduction="token_mean", loss=LossConfig("kl_cov", cov_frac=0.3)
        ),
        epochs=2,
    ),
    "full": of(method="full", lora=LoraConfig()),
    "full, kl": of(method="full", lora=LoraConfig(), algorithm=algorithm(kl=KlConfig(loss=0.1))),
}


def rollouts(seed, groups=3, members=4):
    """Of unequal lengths, with contrast in each group."""
    dice = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return int(torch.randint(low, high, (), generator=dice))

    made = []
    for group in range(groups):
        prompt = tuple(draw(3, 90) for _ in range(draw(2, 7)))
        for index in range(members):
            size = draw(3, 14)
            ids = tuple(draw(3, 90) for _ in range(size))
            mask = tuple(i % 5 != 3 for i in range(size))
            logprobs = tuple(-3.0 - 0.1 * draw(0, 9) if m else 0.0 for m in mask)
            sample = TrainingSample(prompt, ids, mask, logprobs)
            reward = float((index + group) % 2)
            made.append(Rollout(f"p{group}", group, index, reward, Outcome.DONE, (sample,)))
    return made


def updated(config, peers=Alone(), policy=None, steps=2):  # noqa: B008
    """After each of some updates: metrics, weights and the gradient that was applied. Between them
    the trainer is made anew from its state."""
    policy = policy or make_policy(TINY, config)
    trainer = Trainer(policy, config, _reference(config), peers=peers)
    found = []
    for step in range(steps):
        report = trainer.update(rollouts(step))
        weights = flat(p.detach() for p in policy.parameters())
        grads = flat(p.grad for p in policy.parameters())
        found.append((report.num_tokens, report.metrics, weights, grads))
        state = state_of(trainer)
        trainer = Trainer(policy, config, _reference(config), peers=peers)
        restore(trainer, state)
        assert policy.fingerprint() == policy.snapshot().fingerprint()
    return found


def flat(tensors):
    return torch.cat([full(tensor).reshape(-1).clone() for tensor in tensors])


def _reference(config):
    needs = config.method == "full" and config.algorithm.kl.is_active
    return make_policy(TINY, config) if needs else None


def rank_process(rank, size, place, results):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{place}/group",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=60),
    )
    found = {name: updated(config, ProcessPeers()) for name, config in CASES.items()}
    for name in ("full", "full, kl"):
        sharded = ShardedPolicy(TINY)
        parts = sum(p.to_local().numel() for p in sharded.parameters())
        found[f"{name} (sharded)"] = updated(CASES[name], ProcessPeers(in_step=True), sharded)
        found[f"{name} (parts)"] = parts, sum(p.numel() for p in sharded.parameters())
    found["broken"] = _broken(rank)
    results.send_bytes(pickle.dumps(found))
    dist.destroy_process_group()


def _broken(rank):
    """What each rank says when the loss of one is not finite."""
    trainer = Trainer(make_policy(TINY, BASE), BASE, peers=ProcessPeers())
    backward = trainer._backward
    if rank == 1:

        def torn(batch, sums):
            backward(batch, sums)
            raise TrainingError("the loss is not finite")

        trainer._backward = torn
    before = trainer.policy.snapshot().fingerprint()
    try:
        trainer.update(rollouts(0))
    except TrainingError as error:
        return str(error), trainer.policy.snapshot().fingerprint() == before
    return "", False


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two ranks found."""
    place, context = tmp_path_factory.mktemp("ranks"), multiprocessing.get_context("spawn")
    found, started = [], []
    for rank in range(2):
        ours, theirs = context.Pipe()
        process = context.Process(target=rank_process, args=(rank, 2, str(place), theirs))
        process.start()
        started.append((ours, process))
    for ours, process in started:
        assert ours.poll(280), "a rank did not answer"
        found.append(pickle.loads(ours.recv_bytes()))
        process.join(20)
    return found


@pytest.mark.parametrize("name", [*CASES, "full (sharded)", "full, kl (sharded)"])
def test_two_ranks_do_the_update_of_one_process(ranks, name):
    alone = updated(CASES[name.removesuffix(" (sharded)")])
    for rank in ranks:
        for (tokens, metrics, weights, grads), one in zip(rank[name], alone, strict=True):
            assert tokens == one[0] and metrics.keys() == one[1].keys()
            scale = float(one[3].abs().max())
            assert float((grads - one[3]).abs().max()) <= 1e-6 * max(scale, 1.0)
            assert float((weights - one[2]).abs().max()) <= 1e-6
            for key in metrics.keys() - {"update_s"}:
                assert metrics[key] == pytest.approx(one[1][key], rel=1e-5, abs=1e-6), key
    for ours, theirs in zip(ranks[0][name], ranks[1][name], strict=True):
        assert torch.equal(ours[2], theirs[2]), "ranks hold the same bits"
        shared = ours[1].keys() - {"update_s"}
        assert all(ours[1][key] == theirs[1][key] for key in shared)
    assert not torch.equal(alone[0][2], alone[1][2]), "the update changes something"


def test_a_sharded_rank_holds_its_part_only(ranks):
    held = [rank["full (parts)"] for rank in ranks]
    assert sum(part for part, _ in held) == held[0][1] == held[1][1]
    assert all(part < 0.6 * whole for part, whole in held)


def test_a_rank_that_fails_stops_all_and_is_named(ranks):
    (theirs, unchanged), (own, also) = (rank["broken"] for rank in ranks)
    assert "rank 1 failed" in theirs and "not finite" in theirs and "not finite" in own
    assert unchanged and also, "the step was applied nowhere"


@given(st.lists(st.integers(1, 500), max_size=40), st.integers(1, 6))
def test_every_place_has_one_rank_and_none_has_much_more(sizes, size):
    found = shares(sizes, size)
    assert sorted(i for places in found for i in places) == list(range(len(sizes)))
    assert all(places == sorted(places) for places in found)
    loads = [sum(sizes[i] for i in places) for places in found]
    assert max(loads) - min(loads) <= max(sizes, default=0)


class Pretended(ProcessPeers):
    def __init__(self, rank, size, in_step=False):
        self.rank, self.size, self._in_step = rank, size, in_step


@given(st.integers(0, 9), st.integers(1, 5), st.sampled_from([8, 40, 10_000]), st.booleans())
def test_the_shares_of_all_ranks_are_the_batch(seed, size, budget, in_step):
    samples = [Credited(r.samples[0], r.group, 1.0, n) for n, r in enumerate(rollouts(seed))]
    each = [spread(samples, budget, Pretended(rank, size, in_step)) for rank in range(size)]
    numbers = [m.number for s in each for batch in s.mine for g in batch for m in g.members]
    assert sorted(numbers) == list(range(len(samples)))
    rounds = {len(share.mine) + len(share.idle) for share in each}
    assert len(rounds) == 1 or not in_step
    idle = [m for s in each for batch in s.idle for g in batch for m in g.members]
    assert all(m.weight == m.advantage == 0.0 for m in idle) and (in_step or not idle)
    if size == 1:
        assert each[0].mine == pack(samples, budget)


def test_ranks_that_differ_are_named():
    check_equal(["a", "a", "a"], "the update")
    with pytest.raises(TrainingError, match="rank 2 holds b; the others hold a"):
        check_equal(["a", "a", "b"], "the update")
    with pytest.raises(TrainingError, match="rank 0 holds a, rank 1 holds b"):
        check_equal(["a", "b"], "the update")
