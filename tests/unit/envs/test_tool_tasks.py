"""Families of worlds with tools: by name, verified by their own demonstrations, splits apart."""

import asyncio
import json

import pytest
from sandboxes import needs_bwrap

from evolute.envs import make_task
from evolute.envs.sandbox import Unprotected
from evolute.envs.tools import make_tool_task, play_calls, tool_task_names, validate_tool_task
from evolute.envs.tools.contract import Tool, ToolTask, ToolWorld
from evolute.types import ConfigError

PLAIN = (
    "sql", "sql?level=3&schema=hidden&queries=2", "sql?level=1&queries=0", "search-qa?docs=30",
    "search-qa?hops=1-3&browser=no&docs=20", "memory-qa", "memory-qa?parts=1&lines=4&hops=1",
)  # fmt: skip
HELD = ("repair", "repair?modules=1&functions=1&steps=1&told=line&tools=editor")
ALL = (*PLAIN, *(pytest.param(name, marks=needs_bwrap) for name in HELD))


@pytest.mark.parametrize("name", ALL)
def test_a_family_is_solved_by_its_own_demonstrations(name):
    task = make_tool_task(name)
    assert isinstance(task, ToolTask) and task.name == name
    asyncio.run(validate_tool_task(task, 3))
    asyncio.run(validate_tool_task(task, 2, "heldout"))


@pytest.mark.parametrize("name", ALL)
def test_problems_are_the_same_again_and_splits_share_none(name):
    task = make_tool_task(name)
    train, heldout = task.problems("train", 25, 7), task.problems("heldout", 15, 7)
    assert train == task.problems("train", 25, 7) and train != task.problems("train", 25, 8)
    ids = [problem.id for problem in (*train, *heldout)]
    assert len(set(ids)) == 40
    assert all(json.loads(json.dumps(dict(p.extras))) == p.extras for p in train)
    assert not {p.messages[-1]["content"] for p in train} & {
        p.messages[-1]["content"] for p in heldout
    }


@pytest.mark.parametrize("name", ALL)
def test_a_world_can_be_made_from_its_problem_elsewhere(name):
    problem = make_tool_task(name).problems("train", 1)[0]
    other = make_tool_task(name)  # it has drawn nothing
    world = other.world(problem)
    assert isinstance(world, ToolWorld)
    grade = asyncio.run(play_calls(world, other.gold_calls(problem)))
    assert grade.reward == 1.0 and grade.is_right


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sql?level=2", "sql?level=2&queries=1&schema=hidden"),
        ("search-qa?docs=20", "search-qa?docs=20&browser=no&results=1"),
        pytest.param("repair", "repair?told=line&tools=editor", marks=needs_bwrap),
    ],
)
def test_how_it_is_played_changes_no_problem(one, other):
    first, second = (make_tool_task(name).problems("train", 8) for name in (one, other))
    assert [p.extras for p in first] == [p.extras for p in second]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("text-to-sql", "text-to-sql?turns=1&think=yes"),
        ("word-problems", "word-problems?turns=5"),
        ("grid?size=5", "grid?size=5&turns=1&view=1"),
        ("hangman", "hangman?lives=1"),
        ("wordle", "wordle?turns=2"),
        ("search-talk", "search-talk?turns=1&results=1"),
    ],
)
def test_turns_change_no_problem(one, other):
    first, second = (make_task(name).problems("heldout", 8) for name in (one, other))
    assert [p.id for p in first] == [p.id for p in second]


def test_worlds_may_be_closed_at_any_time():
    async def main():
        for name in PLAIN:
            task = make_tool_task(name)
            world = task.world(task.problems("train", 1)[0])
            await world.close()
            with pytest.raises(Exception, match="closed"):
                await world.start()
            await world.close()
            world = task.world(task.problems("train", 1)[0])
            await world.start()
            assert all(isinstance(tool, Tool) for tool in world.tools())
            assert (await world.grade(None)).reward == 0.0
            await world.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("repare", "Did you mean 'repair'?"),
        ("sql?level=4", "it is 0, 1, 2 or 3"),
        ("sql?level=3-1", "it is 0, 1, 2 or 3"),
        ("sql?rows=1", "must lie in"),
        ("sql?lvel=1", "Did you mean 'level'?"),
        ("search-qa?hops=9", "from 1 to 5"),
        ("memory-qa?hops=0", "must lie in"),
        ("memory-qa?hops=1&hops=2", "given twice"),
    ],
)
def test_an_unknown_name_or_option_is_told(name, told):
    with pytest.raises(ConfigError) as raised:
        make_tool_task(name)
    assert told in str(raised.value)


def test_names_are_listed():
    assert tool_task_names() == ["memory-qa", "repair", "search-qa", "sql"]


def test_a_family_that_needs_a_session_says_so():
    with pytest.raises(ConfigError, match="bubblewrap alone"):
        make_tool_task("repair", Unprotected)


@pytest.mark.parametrize("name", PLAIN)
def test_a_problem_of_another_family_is_refused(name):
    other = "memory-qa" if not name.startswith("memory") else "sql"
    problem = make_tool_task(other).problems("train", 1)[0]
    with pytest.raises(ConfigError, match="is none of"):
        make_tool_task(name).world(problem)
