"""Published figures of serving systems on a virtual clock."""

from evolute.bench.simulated.hardware import (
    HARDWARE,
    Hardware,
    with_better_kernels,
    with_padded_products,
    with_static_pool,
)
from evolute.bench.simulated.slora import POLICIES, Report, simulate
from evolute.bench.simulated.traces import Request, gamma_trace

__all__ = [
    "HARDWARE",
    "POLICIES",
    "Hardware",
    "Report",
    "Request",
    "gamma_trace",
    "simulate",
    "with_better_kernels",
    "with_padded_products",
    "with_static_pool",
]
