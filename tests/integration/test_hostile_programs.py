"""Hostile programs: none gets out, none stops the run, innocents among them are answered right."""

import asyncio
import random
import time
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
    """Hostile and innocent programs in turn; a sample of what went wrong with whom."""
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
    for k, report in reports:
        if k < 0:
            assert report.stdout == f"{(-k - 1) ** 2}\n", report
        else:
            assert "ESCAPED" not in report.stdout + report.stderr, (plan[k], report)
            assert len(report.stdout.encode()) <= 3 * TIGHT.max_output_bytes
    assert sum(name in ENDLESS for name, _ in plan) <= max(5, 0.05 * count)
    world.check()
    return reports


def test_generated_programs_are_contained(world):
    drive(world, 40, seed=1, concurrency=4)


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_ten_thousand_generated_programs_are_contained(world):
    drive(world, 10_000, seed=2, concurrency=4)
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
