"""S-LoRA's published rows, and the same in the simulator.

    THROUGHPUT, ADMISSION      rows: settings, the published figure, and how it counts
    reproduce(row) -> Report

A row's `status`: "in-sample" took part in fitting the constants of its machine; "predicted" did
not; "missed" is told because it is off by more than a tenth (static pools: 15 %): the paper does
not say how large those static parts were, and padded products cost more than our one constant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from evolute.bench.simulated.hardware import (
    HARDWARE,
    Hardware,
    with_better_kernels,
    with_padded_products,
    with_static_pool,
)
from evolute.bench.simulated.slora import Report, simulate
from evolute.bench.simulated.traces import gamma_trace

S1, S2, S4 = (8,), (64, 32, 16, 8), (64, 32, 16)
Variant = Literal["unified", "static", "padded", "better"]
Status = Literal["in-sample", "predicted", "missed"]


@dataclass(frozen=True, slots=True)
class Row:
    """`published` is requests a second in THROUGHPUT, SLO attainment in ADMISSION."""

    hardware: str
    ranks: tuple[int, ...]
    num_adapters: int
    rate: float
    seconds: float
    published: float
    variant: Variant = "unified"
    policy: str = "fcfs"
    cv: float = 1.0
    status: Status = "in-sample"

    @property
    def name(self) -> str:
        kind = "" if self.variant == "unified" else f" {self.variant}"
        return (
            f"{self.hardware}{kind} r{max(self.ranks)} n={self.num_adapters} R={self.rate:g} "
            f"{self.policy} cv={self.cv:g} D={self.seconds:g}"
        )


def reproduce(row: Row) -> Report:
    make: dict[Variant, Callable[[Hardware], Hardware]] = {
        "unified": lambda hardware: hardware,
        "static": lambda hardware: with_static_pool(hardware, row.num_adapters, row.ranks),
        "padded": with_padded_products,
        "better": with_better_kernels,
    }
    trace = gamma_trace(row.num_adapters, row.rate, row.seconds, ranks=row.ranks, cv=row.cv)
    return simulate(trace, make[row.variant](HARDWARE[row.hardware]), row.policy)


SMALL, LARGE, LARGE_13B, MIDDLE_13B = "a10g-7b", "a100-80-7b", "a100-80-13b", "a100-40-13b"

THROUGHPUT = (
    Row(SMALL, S1, 0, 2, 300, 1.85, status="predicted"),
    Row(SMALL, S1, 200, 2, 300, 1.775),
    Row(SMALL, S2, 200, 2, 300, 1.576),
    Row(SMALL, S2, 200, 1, 300, 0.961),
    Row(SMALL, S2, 200, 1.5, 300, 1.364),
    Row(SMALL, S2, 200, 2.5, 300, 1.536),
    Row(LARGE, S1, 0, 10, 300, 9.64),
    Row(LARGE, S2, 1, 10, 300, 7.74),
    Row(LARGE, S2, 20, 10, 300, 7.93),
    Row(LARGE, S2, 200, 10, 300, 7.52),
    Row(LARGE, S1, 5, 10, 120, 8.05),
    Row(LARGE, S1, 100, 10, 120, 7.99, status="predicted"),
    Row(LARGE, S1, 1000, 10, 120, 7.64, status="predicted"),
    Row(LARGE, S1, 2000, 10, 120, 7.61),
    Row(LARGE, S2, 5, 10, 120, 7.48, status="predicted"),
    Row(LARGE, S2, 100, 10, 120, 7.29, status="predicted"),
    Row(LARGE, S2, 1000, 10, 120, 6.69, status="predicted"),
    Row(LARGE, S2, 2000, 10, 120, 6.73),
    Row(LARGE_13B, S4, 2, 10, 120, 4.49, status="predicted"),
    Row(LARGE_13B, S4, 5, 10, 120, 4.43, status="predicted"),
    Row(LARGE_13B, S4, 100, 10, 120, 4.28, status="predicted"),
    Row(LARGE_13B, S4, 1000, 10, 120, 3.90, status="predicted"),
    Row(LARGE_13B, S4, 400, 6, 300, 4.06, status="predicted"),
    Row(MIDDLE_13B, S4, 200, 2, 300, 1.408, status="missed"),
    Row(SMALL, S1, 200, 2, 300, 1.734, "static"),
    Row(SMALL, S2, 200, 2, 300, 1.194, "static"),
    Row(LARGE, S2, 200, 10, 300, 6.53, "static"),
    Row(LARGE_13B, S4, 400, 6, 300, 2.64, "static", status="missed"),
    Row(MIDDLE_13B, S4, 200, 2, 300, 0.606, "static", status="missed"),
    Row(SMALL, S1, 200, 2, 300, 0.289, "padded"),
    Row(SMALL, S2, 200, 2, 300, 0.253, "padded"),
    Row(LARGE, S2, 200, 10, 300, 0.256, "padded", status="missed"),
    Row(LARGE_13B, S4, 400, 6, 300, 0.173, "padded", status="missed"),
    Row(MIDDLE_13B, S4, 200, 2, 300, 0.146, "padded", status="missed"),
)

CVS = (1.0, 2.0, 4.0, 6.0, 8.0)
ATTAINMENT = {  # of the artifact; by machine and policy, for each cv
    SMALL: {
        "fcfs": (0.27, 0.26, 0.43, 0.41, 0.32),
        "lifo": (0.79, 0.70, 0.64, 0.60, 0.50),
        "abort": (0.858, 0.817, 0.743, 0.690, 0.637),
    },
    LARGE_13B: {
        "fcfs": (0.10, 0.10, 0.10, 0.28, 0.14),
        "lifo": (0.70, 0.70, 0.59, 0.575, 0.447),
        "abort": (0.719, 0.719, 0.685, 0.660, 0.562),
    },
}
LOADS = {SMALL: (S2, 200, 2.0), LARGE_13B: (S4, 400, 6.0)}
ADMISSION = tuple(
    Row(machine, *LOADS[machine], 300, published, policy=policy, cv=cv, status="predicted")
    for machine, policies in ATTAINMENT.items()
    for policy, figures in policies.items()
    for cv, published in zip(CVS, figures)
)
