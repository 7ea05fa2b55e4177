"""Hostile tool calls: none gets out, none outlives its call, the session goes on working."""

import asyncio
import random
import time
from collections import Counter
from contextlib import ExitStack

import pytest
from hostile import left_behind, open_world
from hostile_tools import bad, generated_call

from evolute.envs.sandbox.bubblewrap import Bubblewrap
from evolute.envs.sandbox.contract import SandboxLimits
from evolute.envs.tools.bash import Bash
from evolute.envs.tools.code_interpreter import CodeInterpreter
from evolute.envs.tools.contract import ToolContext
from evolute.envs.tools.editor import Editor
from evolute.envs.tools.registry import PlainAgent
from evolute.testing.sandboxes import why_no_bubblewrap
from evolute.types import ToolError

LIMITS = SandboxLimits(
    seconds=1, cpu_seconds=1, memory_mb=256, max_processes=16, disk_mb=16, max_output_bytes=8192
)
CALLS_A_SESSION = 25
LIMIT_S = 8.0  # of one call: its own second, then the end of all it started; the machine is shared

pytestmark = pytest.mark.skipif(bool(why_no_bubblewrap()), reason=why_no_bubblewrap() or "fine")


@pytest.fixture
def world(tmp_path):
    with ExitStack() as stack:
        yield open_world(stack, tmp_path)


async def call(tool, arguments, context):
    try:
        return (await tool.call(arguments, context)).text, "answered"
    except ToolError as error:
        return str(error), "told"


async def one_session(sandbox, world, source, count, outcomes):
    async with sandbox.open(LIMITS, {"f.py": b"x = 1\n"}) as session:
        tools = {
            "bash": Bash(session, seconds=1.0),
            "editor": Editor(session),
            "code_interpreter": CodeInterpreter(session, seconds=1.0),
        }
        context = ToolContext(PlainAgent(), "hostile", 1.0)
        own = set(left_behind())  # without root the session itself has our user
        for _ in range(count):
            name, arguments = generated_call(source, world)
            began = time.monotonic()
            text, outcome = await call(tools[name], arguments, context)
            assert not bad(text), (name, arguments, text)
            assert time.monotonic() - began < LIMIT_S + 60, (name, arguments)
            assert len(text) < 20_000, (name, arguments)
            text.encode()
            outcomes[name, outcome] += 1
        assert set(left_behind()) <= own
        # what it may have done to its own folder is mended from inside, as an agent would
        told, _ = await call(
            Bash(session, seconds=5.0),
            {"command": "cd /; chmod 700 /box/home; echo $((7 * 7))"},
            context,
        )
        assert told.splitlines()[-1] == "49", told


def drive(world, count, seed):
    source, sandbox = random.Random(seed), Bubblewrap(2)
    outcomes: Counter[tuple[str, str]] = Counter()

    async def main():
        for start in range(0, count, CALLS_A_SESSION):
            size = min(CALLS_A_SESSION, count - start)
            await one_session(sandbox, world, source, size, outcomes)

    asyncio.run(main())
    assert outcomes.total() == count
    assert left_behind() == []
    world.check()
    return outcomes


def test_a_hundred_generated_calls_are_contained(world):
    outcomes = drive(world, 100, seed=3)
    assert outcomes["bash", "answered"] > 20
    assert outcomes["editor", "told"] > 20
    assert outcomes["code_interpreter", "answered"] > 5


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(10))
def test_ten_thousand_generated_calls_are_contained(world, part):
    outcomes = drive(world, 1000, seed=200 + part)
    wanted = {
        ("bash", "answered"): 200,
        ("editor", "told"): 200,
        ("code_interpreter", "answered"): 80,
    }
    assert all(outcomes[one] > least for one, least in wanted.items()), outcomes


def test_the_check_itself_notices(world):
    assert bad("ESCAPED 3") and bad(f"head\n{world.canary.read_text()}")
    assert not bad("cat: /x: No such file") and not bad("")
