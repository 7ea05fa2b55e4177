"""Adapters over several ranks are the adapters, and send exactly what the paper says (A8)."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.models import LoraConfig, LoraWeights, load_model, pack
from evolute.models.lora_shards import ShardedDelta, shard, sharded_bytes
from evolute.models.packed_lora import GROUPS
from evolute.models.partition import COLUMN_SPLIT, ROW_SPLIT, Partition

TINY = load_model("tiny")
MODULES = COLUMN_SPLIT + ROW_SPLIT
TOKENS = 7


class Ranks:
    """Threads that meet; counts the floats each rank sends, ring-wise."""

    def __init__(self, size):
        self.size, self.barrier = size, threading.Barrier(size, timeout=20)
        self.parts, self.sent, self.messages = [None] * size, [0.0] * size, 0

    def member(self, rank):
        everybody = self

        class Member:
            size = everybody.size

            def __init__(self):
                self.rank = rank

            def meet(self, x):
                everybody.parts[rank] = x
                everybody.messages += rank == 0
                everybody.barrier.wait()
                parts = list(everybody.parts)
                everybody.barrier.wait()
                return parts

            def all_gather(self, x):
                everybody.sent[rank] += (self.size - 1) * x.numel()
                return torch.stack(self.meet(x))

            def all_reduce(self, x):
                everybody.sent[rank] += 2 * (self.size - 1) / self.size * x.numel()
                return sum(self.meet(x))

        return Member()

    def run(self, work):
        with ThreadPoolExecutor(self.size) as pool:
            return list(pool.map(lambda rank: work(self.member(rank)), range(self.size)))


def adapter(rank, targets=MODULES, seed=0):
    config = LoraConfig(rank, alpha=3.0 * rank, targets=targets)
    weights = LoraWeights.init(config, TINY.config, seed)
    for _, b in weights.tensors.values():
        b.normal_(std=0.3, generator=torch.Generator().manual_seed(rank))
    return weights


def inputs_of(modules):
    """One input for each group of modules that share it."""
    found = {}
    for group in GROUPS:
        x = torch.randn(TOKENS, TINY.config.linear_shape(group[0])[1])
        found |= {module: x for module in group if module in modules}
    return found


def sharded(loras, modules, inputs, ranks, layer=1):
    """What the adapters add to each module's outputs; `loras` by index, with rows."""

    def work(member):
        partition = Partition(TINY.config, member.rank, member.size)
        shards = {i: shard(weights, partition) for i, (weights, _) in loras.items()}
        delta = ShardedDelta(
            {i: rows for i, (_, rows) in loras.items()},
            {i: (s.scale, s.tensors(s.flat)) for i, s in shards.items()},
            partition,
            member,
        )
        return [delta(layer, m, inputs[m][:, partition.inputs(m)]) for m in modules]

    found = ranks.run(work)
    return {
        module: None
        if parts[0] is None
        else torch.cat(parts, -1)
        if module in COLUMN_SPLIT
        else sum(parts)  # the base's all-reduce, whether there is an adapter or not
        for module, parts in zip(modules, zip(*found))
    }


def wanted(loras, module, x, layer=1):
    total = torch.zeros(TOKENS, TINY.config.linear_shape(module)[0])
    for weights, rows in loras.values():
        part = weights.delta(layer, module, x[rows])
        if part is not None:
            total[rows] += part
    return total


EVERYTHING = torch.arange(TOKENS)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("rank", [8, 9])
@pytest.mark.parametrize("module", MODULES)
def test_shards_compute_the_adapter_and_send_what_the_paper_says(module, rank, size):
    torch.manual_seed(0)
    loras = {3: (adapter(rank, (module,)), EVERYTHING)}
    inputs, ranks = inputs_of([module]), Ranks(size)
    if module in ("k_proj", "v_proj") and size == 4:
        pytest.skip("four ranks share two kv heads: they hold copies, which is another sum")
    got = sharded(loras, [module], inputs, ranks)[module]
    want = wanted(loras, module, inputs[module])
    assert (got - want).abs().max() <= 1e-5 * max(1, float(want.abs().max()))
    sent = rank if module in ROW_SPLIT else -(-rank // size) * size  # one more where it is uneven
    times = 2 if module in ROW_SPLIT else 1
    assert ranks.sent == pytest.approx([times * (size - 1) / size * TOKENS * sent] * size)
    assert ranks.messages == 1


def test_an_attention_block_sends_five_low_parts_more():
    """2.5 R / H of what the base sends: three gathers and a sum of [T, R]; it sums [T, H]."""
    size, rank = 2, 8
    modules = ("q_proj", "k_proj", "v_proj", "o_proj")
    ranks = Ranks(size)
    sharded({0: (adapter(rank, modules), EVERYTHING)}, modules, inputs_of(modules), ranks)
    width = TINY.config.width
    base = 2 * (size - 1) / size * TOKENS * width
    assert ranks.sent == pytest.approx([base * 2.5 * rank / width] * size)
    assert ranks.messages == 2, "q, k and v share their input, and a message"


@given(
    size=st.sampled_from([2, 4]),
    ranks=st.lists(st.integers(1, 11), min_size=1, max_size=4),
    owners=st.lists(st.integers(-1, 3), min_size=TOKENS, max_size=TOKENS),
    kept=st.lists(st.sets(st.sampled_from(MODULES)), min_size=4, max_size=4),
)
@settings(max_examples=40, deadline=None)
def test_any_mixture_of_adapters_is_what_each_adds(size, ranks, owners, kept):
    torch.manual_seed(1)
    modules = [m for m in MODULES if size == 2 or m not in ("k_proj", "v_proj")]
    modules = [m for group in GROUPS for m in group if m in modules]  # as the decoder asks
    loras = {}
    for index, rank in enumerate(ranks):
        rows = torch.tensor([i for i, owner in enumerate(owners) if owner == index])
        if len(rows):
            loras[index] = (adapter(rank, tuple(sorted(kept[index])), seed=index), rows)
    inputs = inputs_of(modules)
    got = sharded(loras, modules, inputs, Ranks(size))
    for module in modules:
        want = wanted(loras, module, inputs[module])
        if got[module] is None:
            assert not want.any()
        else:
            assert torch.allclose(got[module], want, atol=1e-4)


def test_nothing_is_held_twice_and_what_is_left_alone_costs_nothing():
    weights, size = adapter(9), 2
    parts = [shard(weights, Partition(TINY.config, rank, size)) for rank in range(size)]
    views = [part.tensors(part.flat) for part in parts]
    for key, pair in weights.tensors.items():
        for half in (0, 1):
            assert sum(v[key][half].numel() for v in views) == pair[half].numel()
    most = max(part.flat.numel() for part in parts)
    assert sharded_bytes(pack(weights), TINY.config, size) == 4 * size * most
    assert sharded_bytes(pack(weights), TINY.config, 1) == pack(weights).num_bytes
    ranks = Ranks(2)
    loras = {0: (adapter(4, ("v_proj",)), EVERYTHING)}
    got = sharded(loras, ["gate_proj", "o_proj"], inputs_of(["gate_proj", "o_proj"]), ranks)
    assert got == {"gate_proj": None, "o_proj": None} and ranks.sent == [0, 0]


def test_copies_of_a_kv_head_get_the_same_part():
    torch.manual_seed(0)
    loras, modules = {0: (adapter(6), EVERYTHING)}, ["k_proj"]
    inputs, width = inputs_of(modules), TINY.config.head_width
    got = sharded(loras, modules, inputs, Ranks(4))["k_proj"]  # parts of ranks 0 and 1, 2 and 3
    want = wanted(loras, "k_proj", inputs["k_proj"])
    for rank in range(4):
        mine = got[:, rank * width : (rank + 1) * width]
        head = want[:, rank // 2 * width : (rank // 2 + 1) * width]
        assert torch.allclose(mine, head, atol=1e-4)
