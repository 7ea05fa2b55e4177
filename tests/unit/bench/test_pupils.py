"""Pupils of tools: their lessons are real trajectories, and right now and then."""

import asyncio
import json
import random
import re
from dataclasses import replace

import pytest

from evolute.agents import AgentConfig
from evolute.bench.pupils import (
    WORLDS,
    Sizes,
    Teacher,
    evaluated,
    figures,
    learn,
    taught,
    tool_pupil,
)
from evolute.bench.pupils.pupil import written
from evolute.bench.pupils.search_world import MADE
from evolute.bench.pupils.sql_world import found_rows, spelt_queries
from evolute.bench.pupils.teacher import lessons
from evolute.envs.repair.task import repository_of
from evolute.envs.tools.registry import make_tool_task
from evolute.models import load_model
from evolute.train import TrainConfig
from evolute.train.sft import read
from evolute.types import BackendError, ConfigError, GenerateRequest, SamplingParams

TASKS = {
    "repair": "repair?modules=1&functions=1&steps=2&told=function&tools=editor",
    "sql": "sql?level=0&schema=hidden&spelling=drawn&domains=2&rows=4&queries=6",
    "memory": "memory-qa?parts=2&lines=4&hops=1&names=short&decoys=no&answers=colours",
    "search": "search-qa?hops=1&docs=10&browser=no&results=1&names=short",
}


def played(world, path, count=40, turns=5):
    task, model = make_tool_task(TASKS[world]), tool_pupil(0, WORLDS[world].phrases, 32, 1)
    agent = AgentConfig(max_turns=turns, remind_below=1)
    problems = task.problems("train", count)
    work = lessons(WORLDS[world].script, task, model.tokenizer, [agent], problems, path, 0)
    return asyncio.run(work), model.tokenizer


@pytest.mark.parametrize("world", TASKS)
def test_lessons_are_whole_trajectories_some_of_which_are_right(world, tmp_path):
    rollouts, tokenizer = played(world, tmp_path / "lessons.jsonl")
    right = sum(r.metrics["accuracy"] for r in rollouts)
    assert 0 < right < len(rollouts)
    assert all(r.outcome == "done" for r in rollouts)
    assert not any(r.metrics["mistakes"] for r in rollouts), "a script called what is refused"
    samples = read(tmp_path / "lessons.jsonl", tokenizer, "assistant")
    assert samples == [s for r in rollouts for s in r.samples]
    for sample in samples:
        said = [t for t, is_said in zip(sample.response_ids, sample.loss_mask) if is_said]
        text = tokenizer.decode(said)
        assert text.count("<tool_call>") == text.count("</tool_call>") >= 1
        assert tokenizer.encode(text) == said, "the lesson has other tokens than its text"


@pytest.mark.parametrize("world", TASKS)
def test_a_prompt_is_a_few_tokens(world, tmp_path):
    rollouts, _ = played(world, tmp_path / "lessons.jsonl", count=12)
    longest = max(len(s.prompt_ids) + len(s.response_ids) for r in rollouts for s in r.samples)
    assert longest < 256


def test_the_last_turn_is_told_and_sometimes_wasted(tmp_path):
    rollouts, _ = played("sql", tmp_path / "lessons.jsonl", turns=1)
    wasted = [r for r in rollouts if r.outcome == "truncated"]
    assert 0 < len(wasted) < len(rollouts)


def test_one_of_the_spelt_queries_is_the_gold_one():
    for problem in make_tool_task(TASKS["sql"]).problems("heldout", 30):
        assert problem.gold in spelt_queries(problem)
        assert len(set(spelt_queries(problem))) == 4


@pytest.mark.parametrize(
    ("told", "is_found"),
    [
        ("count(*)\n0\n[1 rows]", False),
        ("max(age)\nNULL\n[1 rows]", False),
        ("name\n[0 rows]", False),
        ("count(*)\n3\n[1 rows]", True),
        ("name\nKoni\nRita\n[2 rows]", True),
    ],
)
def test_what_a_tool_shows_is_something_or_nothing(told, is_found):
    assert found_rows(told) is is_found


def test_an_exercise_asks_what_its_text_tells():
    world = "search"
    task = make_tool_task(TASKS[world])
    problems = task.problems("train", 9)
    source = random.Random(0)
    talks = [WORLDS[world].exercise(task, problems[k : k + 3], source) for k in range(6)]
    assert any(len(talk) > 2 for talk in talks)
    for talk in filter(None, talks):
        assert all(answer and answer in talk[0][0] for _, answer in talk)


def called(text):
    """Name and arguments of the one call in a text."""
    call = json.loads(text.partition("<tool_call>\n")[2].partition("\n</tool_call>")[0])
    return call["name"], call["arguments"]


def test_an_exercise_of_sql_asks_for_a_word_that_no_question_asks_for():
    task, source = make_tool_task(TASKS["sql"]), random.Random(0)
    problems = task.problems("train", 40)
    real = {p.id.partition(": ")[2] for p in [*problems, *task.problems("heldout", 40)]}
    ways = set()
    for problem in problems:
        talk = WORLDS["sql"].exercise(task, [problem], source)
        asked = talk[0][0].partition("Question: ")[2].partition("\n")[0]
        word = asked.removesuffix("?").rpartition(" ")[2]
        assert asked not in real
        assert spelt(problem, word) >= {
            next(iter(called(answer)[1].values())) for _, answer in talk
        }
        ways.add(tuple(called(answer)[0] for _, answer in talk))
        assert found_rows(talk[-1][0]) or len(talk) == 1
    assert ways == {("finish",), ("sql", "finish")}


def spelt(problem, word):
    """The problem's queries, of another word."""
    own = re.search(r"(\w+)\?", problem.id)[1]
    return {query.replace(own, word) for query in spelt_queries(problem)}


def test_an_exercise_of_repair_is_the_right_edit():
    task, source = make_tool_task(TASKS["repair"]), random.Random(0)
    for problem in task.problems("train", 20):
        [(asked, answer)] = WORLDS["repair"].exercise(task, [problem], source)
        name, edit = called(answer)
        repository = repository_of(problem, task.shape)
        before, after = (repository.files(is_mended=is_mended) for is_mended in (False, True))
        changed = before[edit["path"]].replace(edit["old_str"], edit["new_str"])
        assert name == "editor" and changed == after[edit["path"]] != before[edit["path"]]
        assert edit["path"] in asked


def test_names_of_an_exercise_of_search_are_tokens():
    task, source = make_tool_task(TASKS["search"]), random.Random(0)
    problems, model = task.problems("train", 9), tool_pupil(0, WORLDS["search"].phrases)
    for k in range(30):
        talk = WORLDS["search"].exercise(task, problems[k % 7 : k % 7 + 3], source)
        said = " ".join(text for pair in talk for text in pair)
        names = [name for name in re.findall(r"[A-Z][a-z]+", said) if MADE.fullmatch(name)]
        assert names and all(len(model.tokenizer.encode(name)) == 1 for name in names)


def test_a_script_that_ends_too_early_is_an_error():
    model = tool_pupil(0, (), 32, 1)
    problem = make_tool_task(TASKS["memory"]).problems("train", 1)[0]

    def once(problem, source, told):
        yield ("finish", {"answer": told})

    teacher = Teacher(once, problem, model.tokenizer, "0")
    prompt = model.tokenizer.chat([{"role": "user", "content": "who?"}])
    request = GenerateRequest(tuple(prompt), SamplingParams(max_new_tokens=4))
    (output,) = asyncio.run(teacher.agenerate(request))
    assert output.text == written("finish", {"answer": "who?"})
    with pytest.raises(BackendError, match="script ended"):
        asyncio.run(teacher.agenerate(request))


def test_lessons_are_written_as_json_lines(tmp_path):
    rollouts, _ = played("search", tmp_path / "lessons.jsonl", count=5)
    rows = [json.loads(line) for line in (tmp_path / "lessons.jsonl").read_text().splitlines()]
    assert [row["problem_id"] for row in rows] == [r.problem_id for r in rollouts]


SMALL = Sizes(lessons=8, exercises=4, epochs=1, width=32, num_layers=1)


def test_a_pupil_is_taught_once_and_its_folder_is_its_own(tmp_path):
    train = TrainConfig(task=TASKS["search"], method="full", agent=AgentConfig(max_turns=3))
    steps = []
    path = taught(tmp_path, WORLDS["search"], train, SMALL, 0, steps.append)
    assert [report.step for report in steps] == [0, 1]
    again = taught(tmp_path, WORLDS["search"], train, SMALL, 0, steps.append)
    assert again == path and len(steps) == 2, "it was taught twice"
    known = load_model(str(path)).tokenizer
    lesson = read(tmp_path / "lessons.jsonl", known, "assistant")[0]
    assert "Hand in the answer" in known.decode(lesson.prompt_ids)
    for other in (replace(WORLDS["search"], phrases=("a",)), replace(WORLDS["search"], turns=(2,))):
        with pytest.raises(ConfigError, match="taught otherwise"):
            taught(tmp_path, other, train, SMALL, 0)


def test_the_gain_is_paired():
    before = {str(k): k < 10 for k in range(40)}
    found = figures(before, {str(k): k < 30 for k in range(40)})
    assert found["n"] == 40
    assert found["gain"]["mean"] == pytest.approx(0.5)
    assert 0 < found["gain"]["low"] < 0.5 < found["gain"]["high"]
    assert found["before"]["mean"] == 0.25 and found["after"]["mean"] == 0.75


@pytest.mark.slow
def test_a_pupil_is_trained_and_evaluated_and_goes_on(tmp_path):
    train = TrainConfig(
        task=TASKS["search"],
        method="full",
        steps=2,
        prompts_per_step=2,
        samples_per_prompt=2,
        agent=AgentConfig(max_turns=2, max_new_tokens=24),
    )
    pupil = taught(tmp_path / "pupil", WORLDS["search"], train, SMALL, 0)
    done = []
    model = asyncio.run(learn(tmp_path / "rl", pupil, train, done.append))
    assert [report.step for report in done] == [0, 1]
    assert asyncio.run(learn(tmp_path / "rl", pupil, train, done.append)) == model
    assert len(done) == 2
    right, means = asyncio.run(evaluated(tmp_path / "at", model, train, 6, turns=2))
    assert len(right) == 6 and means["turns"] <= 2
    assert asyncio.run(evaluated(tmp_path / "at", model, train, 6, turns=2))[0] == right


def test_adapters_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="full"):
        asyncio.run(learn(tmp_path, tmp_path, TrainConfig(model="tiny")))
