"""Hostile programs: none gets out, none stops the run, innocents among them are answered right."""

import asyncio
import random
import time
from collections import Counter
from contextlib import ExitStack

import pytest
from hostile import ENDLESS, FAMILIES, generated, left_behind, open_world

from evolute.envs.sandbox.bubblewrap import Bubblewrap
from evolute.envs.sandbox.contract import Ending, SandboxLimits, Script
from evolute.testing.sandboxes import why_no_bubblewrap

LIMITS = SandboxLimits(seconds=8, cpu_seconds=8, memory_mb=256)
TIGHT = SandboxLimits(seconds=2, cpu_seconds=2, memory_mb=256)
ENDS = {
    "bomb": {Ending.TIMEOUT},
    "sleeper": {Ending.TIMEOUT},
    "output": {Ending.OUTPUT},
    "signals": {Ending.EXITED, Ending.SIGNAL},
    "crash": {Ending.SIGNAL},
    "recursion": {Ending.SIGNAL, Ending.EXITED, Ending.MEMORY},
}

pytestmark = pytest.mark.skipif(bool(why_no_bubblewrap()), reason=why_no_bubblewrap() or "fine")


@pytest.fixture
def world(tmp_path):
    with ExitStack() as stack:
        yield open_world(stack, tmp_path)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_contained(world, name):
    async def main():
        sandbox = Bubblewrap()
        limits = TIGHT if name in ENDLESS else LIMITS
        bad = sandbox.run(Script(FAMILIES[name](world)), limits)
        good = [sandbox.run(Script(f"print({k} * 7)"), LIMITS) for k in range(3)]
        return await asyncio.gather(bad, *good)

    began = time.monotonic()
    report, *innocents = asyncio.run(main())
    assert "ESCAPED" not in report.stdout + report.stderr
    assert report.ending in ENDS.get(name, {Ending.EXITED}), report
    if report.ending is Ending.EXITED and name != "recursion":
        assert "done" in report.stdout, report
    assert [one.stdout for one in innocents] == ["0\n", "7\n", "14\n"]
    assert time.monotonic() - began < LIMITS.seconds + 60
    assert len(report.stdout) <= LIMITS.max_output_bytes
    world.check()


def drive(world, count, seed, concurrency):
    """Hostile and innocent programs, shuffled. None gets out or outlives its limit, nothing is
    left, innocents are answered right; and the hostile ones ran, or that would show nothing."""
    source, sandbox = random.Random(seed), Bubblewrap(concurrency)
    plan = [generated(source, world) for _ in range(count)]
    gate = asyncio.Semaphore(2 * concurrency)

    async def one(k, program, limits):
        async with gate:
            return k, await sandbox.run(Script(program), limits)

    async def main():
        hostile = [one(k, program, TIGHT) for k, (_, program) in enumerate(plan)]
        innocent = [one(-k - 1, f"print({k} ** 2)", LIMITS) for k in range(count // 10)]
        mixed = [*hostile, *innocent]
        source.shuffle(mixed)
        return await asyncio.gather(*mixed)

    reports = asyncio.run(main())
    assert len(reports) == count + count // 10
    tried = Counter(name for name, _ in plan)
    did: Counter[str] = Counter()
    for k, report in reports:
        if k < 0:
            assert report.stdout == f"{(-k - 1) ** 2}\n", report
        else:
            assert "ESCAPED" not in report.stdout + report.stderr, (plan[k], report)
            assert len(report.stdout.encode()) <= 3 * TIGHT.max_output_bytes
            did[plan[k][0]] += did_its_worst(plan[k][0], report)
    for name, number in tried.items():
        is_sure = name in ENDLESS
        assert did[name] >= (number if is_sure else 0.75 * number - 2), (name, did, tried)
    assert sum(tried[name] for name in ENDLESS) <= max(5, 0.05 * count)
    world.check()
    return did


def did_its_worst(name, report):
    """Was it held at its work, rather than broken before it began?"""
    if name in ENDLESS:
        return report.ending is Ending.TIMEOUT
    if name == "output":
        return report.ending is Ending.OUTPUT
    return "done" in report.stdout or report.ending is Ending.OUTPUT


def test_generated_programs_are_contained(world):
    assert drive(world, 40, seed=1, concurrency=4).total() >= 30


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(10))
def test_ten_thousand_generated_programs_are_contained(world, part):
    assert set(drive(world, 1000, seed=100 + part, concurrency=4)) == set(FAMILIES)
    assert left_behind() == []


def test_the_check_itself_notices(world, tmp_path):
    """A test that cannot fail would be worth nothing: each trace is seen."""
    world.check()
    world.udp.sendto(b"x", world.udp.getsockname())
    with pytest.raises(AssertionError):
        world.check()
    (tmp_path / "new").write_text("")
    with pytest.raises(AssertionError):
        world.check()
    (tmp_path / "new").unlink()
    world.canary.write_bytes(b"changed")
    with pytest.raises(AssertionError):
        world.check()
