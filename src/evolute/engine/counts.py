"""How much has the engine done? Exact counts, for gates, rates and reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """What the engine did since it started; exact, for gates and reports."""

    steps: int = 0
    computed_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    drafted_tokens: int = 0  # guessed and computed ahead
    accepted_tokens: int = 0  # of them, drawn by the sampler too
    forced_tokens: int = 0  # computed ahead since a grammar leaves nothing else
    jumped_tokens: int = 0  # of them, drawn by the sampler too
    requests: int = 0
    finished: int = 0  # outputs that came to their own end
    late: int = 0  # outputs ended before their first token, which would have come too late
    preemptions: int = 0
    evicted_pages: int = 0
    repairs: int = 0  # faults in the accounts of pages, found and put right while idle
