"""An adapter over several ranks is the adapter, and sends exactly what the paper says (A8)."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from evolute.models import LoraConfig, LoraWeights, load_model
from evolute.models.lora_shards import COLUMN_SPLIT, ROW_SPLIT, shard

TINY = load_model("tiny")
TOKENS = 7


class Ranks:
    """Threads that meet; counts the floats each rank sends, ring-wise."""

    def __init__(self, size):
        self.size, self.barrier = size, threading.Barrier(size, timeout=20)
        self.parts, self.sent = [None] * size, [0.0] * size

    def member(self, rank):
        everybody = self

        class Member:
            size = everybody.size

            def __init__(self):
                self.rank = rank

            def meet(self, x):
                everybody.parts[rank] = x
                everybody.barrier.wait()
                parts = list(everybody.parts)
                everybody.barrier.wait()
                return parts

            def all_gather(self, x):
                everybody.sent[rank] += (self.size - 1) * x.numel()
                return torch.cat(self.meet(x), -1)

            def all_reduce(self, x):
                everybody.sent[rank] += 2 * (self.size - 1) / self.size * x.numel()
                return sum(self.meet(x))

        return Member()

    def run(self, work):
        with ThreadPoolExecutor(self.size) as pool:
            return list(pool.map(lambda rank: work(self.member(rank)), range(self.size)))


def adapter(rank, targets=COLUMN_SPLIT + ROW_SPLIT):
    weights = LoraWeights.init(LoraConfig(rank, alpha=3.0 * rank, targets=targets), TINY.config)
    for _, b in weights.tensors.values():
        b.normal_(std=0.3, generator=torch.Generator().manual_seed(rank))
    return weights


def sharded(weights, module, x, base, ranks):
    """Output of one linear layer with its adapter, computed by all ranks."""

    def work(member):
        mine = shard(weights, member.rank, member.size)
        if module in COLUMN_SPLIT:
            own = torch.tensor_split(base, member.size)[member.rank]
            y = x @ own.T
            delta = mine.column(1, module, x, member)
            return y if delta is None else y + delta
        parts = [torch.tensor_split(t, member.size, dim=1)[member.rank] for t in (x, base)]
        partial = mine.row(1, module, parts[0], parts[0] @ parts[1].T, member)
        return partial  # the base's all-reduce follows, whether there is an adapter or not

    found = ranks.run(work)
    return torch.cat(found, -1) if module in COLUMN_SPLIT else sum(found)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("rank", [8, 9])
@pytest.mark.parametrize("module", COLUMN_SPLIT + ROW_SPLIT)
def test_shards_compute_the_adapter_and_send_what_the_paper_says(module, rank, size):
    torch.manual_seed(0)
    weights = adapter(rank)
    outputs, inputs = TINY.config.linear_shape(module)
    x, base = torch.randn(TOKENS, inputs), torch.randn(outputs, inputs) * 0.1
    ranks = Ranks(size)
    got = sharded(weights, module, x, base, ranks)
    want = x @ base.T + weights.delta(1, module, x)
    assert (got - want).abs().max() <= 1e-5 * max(1, float(want.abs().max()))
    once = (size - 1) / size * TOKENS * rank
    times = 1 if module in COLUMN_SPLIT else 2
    assert sum(ranks.sent) == pytest.approx(size * times * once)
    if rank % size == 0:
        assert ranks.sent == pytest.approx([times * once] * size)


def test_an_attention_block_sends_five_low_parts_more():
    """2.5 R / H of what the base sends: three gathers and a sum of [T, R]; it sums [T, H]."""
    size, rank = 4, 8
    weights, ranks = adapter(rank, ("q_proj", "k_proj", "v_proj", "o_proj")), Ranks(size)
    for module in weights.config.targets:
        outputs, inputs = TINY.config.linear_shape(module)
        sharded(weights, module, torch.randn(TOKENS, inputs), torch.randn(outputs, inputs), ranks)
    width = TINY.config.width
    base = 2 * (size - 1) / size * TOKENS * width
    assert ranks.sent == pytest.approx([base * 2.5 * rank / width] * size)


def test_nothing_is_held_twice_and_what_is_left_alone_costs_nothing():
    weights, size = adapter(9), 4
    shards = [shard(weights, rank, size) for rank in range(size)]
    for key, pair in weights.tensors.items():
        for half in (0, 1):
            assert sum(s.tensors[key][half].numel() for s in shards) == pair[half].numel()
    ranks, x = Ranks(2), torch.randn(TOKENS, TINY.config.width)
    base = torch.randn(TINY.config.linear_shape("q_proj"))
    got = sharded(adapter(4, ("v_proj",)), "q_proj", x, base, ranks)
    assert torch.allclose(got, x @ base.T, atol=1e-5) and ranks.sent == [0, 0]
    with pytest.raises(ValueError, match="rank 4 of a group of 4"):
        shard(weights, 4, 4)
