"""Serve the same requests twice and compare all that was answered.

serve(engine, requests) -> groups of outputs     all begin in the same step
assert_same(groups, expected)                    tokens, texts, ends and figures
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

import pytest

from evolute.engine import Engine
from evolute.types import GenerateRequest, Output

WAIT_S = 60  # a lost answer fails its test
Groups = list[list[Output]]


def serve(engine: Engine, requests: Sequence[GenerateRequest]) -> Groups:
    """What is scheduled does not depend on the clock. A request's id begins with its place."""

    async def everything() -> Groups:
        fresh = [dataclasses.replace(r, id=f"{i}-{id(r)}") for i, r in enumerate(requests)]
        engine.pause()
        sent = [asyncio.create_task(engine.agenerate(r)) for r in fresh]
        while engine.stats().waiting < sum(r.sampling.n for r in fresh):
            await asyncio.sleep(0.001)
        engine.resume()
        return await asyncio.wait_for(asyncio.gather(*sent), WAIT_S)

    return asyncio.run(everything())


def assert_same(groups: Groups, expected: Groups) -> None:
    """Figures may differ by 1e-4: a step of five rows sums in another order than five steps."""
    for group, wanted in zip(groups, expected, strict=True):
        for one, two in zip(group, wanted, strict=True):
            assert one.token_ids == two.token_ids
            assert (one.text, one.finish_reason) == (two.text, two.finish_reason)
            assert one.matched_stop == two.matched_stop and one.error == two.error
            assert one.logprobs == pytest.approx(two.logprobs, abs=1e-4)
            assert one.prompt_logprobs[1:] == pytest.approx(two.prompt_logprobs[1:], abs=1e-4)
            assert len(one.top_logprobs) == len(two.top_logprobs)
            for mine, other in zip(one.top_logprobs, two.top_logprobs):
                assert [t.token_id for t in mine] == [t.token_id for t in other]
                assert [t.logprob for t in mine] == pytest.approx(
                    [t.logprob for t in other], abs=1e-4
                )
            assert len(one.id_logprobs) == len(two.id_logprobs)
            for mine, other in zip(one.id_logprobs, two.id_logprobs):
                assert mine == pytest.approx(other, abs=1e-4)
