"""The doubles that other tests stand on."""

from __future__ import annotations

import asyncio

import pytest

from evolute.testing import ByteTokenizer, ManualClock, ScriptedBackend
from evolute.types import Backend, FinishReason, GenerateRequest, SamplingParams


def test_manual_clock_wakes_sleepers_in_order_and_only_when_due() -> None:
    async def run() -> list[str]:
        clock, woken = ManualClock(), []

        async def nap(name: str, seconds: float) -> None:
            await clock.sleep(seconds)
            woken.append(name)

        naps = [asyncio.create_task(nap(n, s)) for n, s in (("b", 2.0), ("a", 1.0), ("c", 9.0))]
        await asyncio.sleep(0)
        clock.advance(2.0)
        await asyncio.sleep(0)
        assert (clock.now(), clock.num_sleeping) == (2.0, 1)
        naps[2].cancel()
        with pytest.raises(ValueError, match="backwards"):
            clock.advance(-1.0)
        return woken

    assert asyncio.run(run()) == ["a", "b"]


def test_scripted_backend_answers_in_turn_and_cuts() -> None:
    backend = ScriptedBackend(["one", "two"])
    assert isinstance(backend, Backend)
    request = GenerateRequest((1,), SamplingParams(n=3, max_new_tokens=2))
    outputs = asyncio.run(backend.agenerate(request))
    assert [output.text for output in outputs] == ["on", "tw", "tw"]
    assert {output.finish_reason for output in outputs} == {FinishReason.LENGTH}
    assert backend.requests == [request]


def test_byte_tokenizer_is_exact_both_ways() -> None:
    tokenizer = ByteTokenizer()
    text = "a\u00e9\U0001f389"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode(text))) == text.encode()
    assert tokenizer.decode([104, 256]) == "h"
    assert tokenizer.decode([256], skip_special_tokens=False) == "<eos>"
