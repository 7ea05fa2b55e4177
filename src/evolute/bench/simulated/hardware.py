"""How long do a decode step, a prefill and a load of an adapter take on published hardware?

    HARDWARE["a10g-7b" | "a100-80-7b" | "a100-80-13b" | "a100-40-13b"]
    hardware.decode_s(...), prefill_s(...), load_s(...), adapter_bytes(rank)
    with_better_kernels | with_static_pool | with_padded_products (hardware)

The 7B constants were fitted to S-LoRA's artifact (A10G's base independently of it, the rest to
rows that the tests compare: in-sample). The 13B ones follow from them by layers, width and
bandwidth and were not fitted, except that of padded products.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

GB = 1e9
REQUEST_TOKENS = 315  # what a request of the synthetic traces holds, on the average at its peak
PREFETCH_STEPS = 5  # decode steps beside which a predicted adapter is copied


@dataclass(frozen=True, slots=True)
class Hardware:
    """One GPU with one base model in float16; seconds and bytes a second."""

    name: str
    layers: int
    width: int
    pool_tokens: int  # keys, values and adapters, in tokens of keys and values
    floor_s: float  # of a step, however small: launches
    floor_context_s: float  # and for each token of context
    step_s: float  # reading the weights
    request_s: float  # for each request in the step
    context_s: float  # for each token of context
    prompt_s: float  # for each token of prompts
    launch_s: float  # of the adapters' kernels, in a step
    distinct_bytes_s: float  # adapters in use are read at this rate
    gather_bytes_s: float  # and once more for each request at this one; inf: they are not
    prefill_rank_frac: float  # prefill takes this much longer at rank 64
    load_bytes_s: float
    load_cpu_s: float = 0.0  # for each adapter, not hidden by anything
    prefill_s_base: float = 0.02
    padded_s: float = 0.0  # copying one request's adapter to a padded batch, in a step
    step_factor: float = 1.0
    static_cells: int | None = None  # of the pool for adapters alone; None: one pool

    def adapter_bytes(self, rank: int) -> float:
        """A and B of q, k, v and o."""
        return 2.0 * 8 * rank * self.width * self.layers

    def cells(self, rank: int) -> int:
        """Tokens of keys and values that take as much memory."""
        return 4 * rank

    def decode_s(self, batch: int, context: int, ranks: Sequence[int], distinct: float) -> float:
        """A step of `batch` requests. `ranks` of each with an adapter; bytes of `distinct` ones."""
        seconds = max(
            self.floor_s + self.floor_context_s * context,
            self.step_s + self.request_s * batch + self.context_s * context,
        )
        if ranks:
            effective = 0.8 * max(ranks) + 0.2 * sum(ranks) / len(ranks)
            gathered = len(ranks) * self.adapter_bytes(1) * effective
            seconds += self.launch_s + distinct / self.distinct_bytes_s
            seconds += gathered / self.gather_bytes_s
            seconds += len(ranks) * self.padded_s * (1 + max(ranks) / 400)
        return seconds * self.step_factor

    def prefill_s(self, tokens: int, ranks: Sequence[int]) -> float:
        mean = sum(ranks) / len(ranks) if ranks else 0
        factor = 1 + self.prefill_rank_frac * mean / 64
        return (self.prefill_s_base + self.prompt_s * tokens) * factor

    def load_s(self, ranks: Sequence[int], running: int) -> float:
        """What is left of loading adapters of `ranks` after the steps beside which they came."""
        copying = sum(map(self.adapter_bytes, ranks)) / self.load_bytes_s
        hidden = PREFETCH_STEPS * self.decode_s(running, 0, (), 0) if running else 0.0
        return max(0.0, copying - hidden) + self.load_cpu_s * len(ranks)


def with_better_kernels(hardware: Hardware) -> Hardware:
    """Distinct adapters read once, at half the memory's rate; few launches; one copy a load."""
    return dataclasses.replace(
        hardware,
        launch_s=1e-3,
        distinct_bytes_s=1200 * GB,
        gather_bytes_s=float("inf"),
        prefill_rank_frac=0.06,
        load_cpu_s=1e-3,
    )


def with_static_pool(hardware: Hardware, num_adapters: int, ranks: Sequence[int]) -> Hardware:
    """A part for adapters alone, as many as requests would fill the pool, of the mean rank (for
    the A10G and mixed ranks: the artifact's 5,500 of 14,500); and copies that join their parts."""
    count = min(num_adapters, int(hardware.pool_tokens / REQUEST_TOKENS))
    cells = int(count * sum(map(hardware.cells, ranks)) / len(ranks))
    return dataclasses.replace(hardware, static_cells=cells, step_factor=1.1)


def with_padded_products(hardware: Hardware) -> Hardware:
    """torch.bmm on batches padded to the largest rank: each step copies every request's adapter.

    One constant, fitted to the six published rows.
    """
    return dataclasses.replace(hardware, padded_s=3.4e-4 * hardware.layers)


# -- internals ---------------------------------------------------------------

_A10G = Hardware(
    name="a10g-7b",
    layers=32,
    width=4096,
    pool_tokens=14_500,
    floor_s=0.0355,
    floor_context_s=1.0e-6,
    step_s=0.0197,
    request_s=2.15e-4,
    context_s=1.7e-6,
    prompt_s=2.13e-4,
    launch_s=3e-3,
    distinct_bytes_s=400 * GB,
    gather_bytes_s=float("inf"),
    prefill_rank_frac=0.30,
    load_bytes_s=10 * GB,
)
_A100 = Hardware(
    name="a100-80-7b",
    layers=32,
    width=4096,
    pool_tokens=125_000,
    floor_s=0.033,
    floor_context_s=0.0,
    step_s=0.012,
    request_s=5e-5,
    context_s=4.55e-7,
    prompt_s=7.2e-5,
    launch_s=2.5e-3,
    distinct_bytes_s=4000 * GB,
    gather_bytes_s=2400 * GB,
    prefill_rank_frac=0.6,
    load_bytes_s=12 * GB,
    load_cpu_s=8e-3,
)


def _larger(name: str, pool_tokens: int, bandwidth: float) -> Hardware:
    """13B: 40 layers of width 5120, on a card with `bandwidth` times the memory rate."""
    layers, weights = 40 / 32, 13.0 / 6.7
    keys = 40 * 5120 / (32 * 4096)
    return dataclasses.replace(
        _A100,
        name=name,
        layers=40,
        width=5120,
        pool_tokens=pool_tokens,
        floor_s=_A100.floor_s * layers,
        step_s=_A100.step_s * weights / bandwidth,
        request_s=_A100.request_s * layers,
        context_s=_A100.context_s * keys / bandwidth,
        prompt_s=_A100.prompt_s * weights,
        launch_s=_A100.launch_s * layers,
        distinct_bytes_s=_A100.distinct_bytes_s * bandwidth,
        gather_bytes_s=_A100.gather_bytes_s * bandwidth,
        load_cpu_s=_A100.load_cpu_s * layers,
    )


HARDWARE = {
    hardware.name: hardware
    for hardware in (
        _A10G,
        _A100,
        _larger("a100-80-13b", 65_000, 1.0),
        _larger("a100-40-13b", 14_000, 1555 / 2000),
    )
}
