"""The thought buffer on scripted models: learns once, answers without calls, counts, retires."""

import asyncio
import json

import pytest
from own_programs import OwnPrograms

from evolute.envs import make_task
from evolute.lang.account import Account, Budget
from evolute.reasoning.method import Method, Roles
from evolute.reasoning.thought_buffer import (
    Buffer,
    Slot,
    Stats,
    ThoughtBuffer,
    ThoughtConfig,
    ThoughtTemplate,
)
from evolute.reasoning.thought_buffer.method import by_world
from evolute.reasoning.thought_buffer.programs import PROGRAMS
from evolute.testing import HashingEmbedder, ScriptedTextBackend
from evolute.types import ConfigError, Problem

TASKS = {
    "game-of-24": "game-of-24",
    "word-sorting": "reasoning-gym:word_sorting",
    "arithmetic": "reasoning-gym:chain_sum",
    "dates": "dates",
    "checkmate-in-one": "checkmate-in-one",
    "shapes": "shapes",
    "table-questions": "table-questions",
}
SOLVER_24 = next(seed.program for seed in PROGRAMS if seed.family == "game-of-24")


def method_of(tmp_path, model, verify=None, **settings):
    settings = {"use_above": 0.5, "new_below": 0.5, "max_new_tokens": 1500} | settings
    config = ThoughtConfig(path=str(tmp_path / "t.db"), **settings)
    sandbox = OwnPrograms()
    more = {"verify": verify} if verify else {}
    return ThoughtBuffer(Roles(model), lambda: sandbox, config, embedder=HashingEmbedder(), **more)


def run(method, problems, budget=None):
    async def all_of_them():
        return [await method.solve(problem, account) for problem in problems]

    account = Account(budget)
    try:
        return asyncio.run(all_of_them()), account
    finally:
        method.close()


def programmer(request):
    """Writes the solver of 24 for the hand that it is shown, as a strong model would."""
    said = request.prompt.messages[0]["content"]
    question = said.split("Problem:\n")[1]
    hand = question.split("numbers ")[1].split(" with")[0]
    target = question.split("make ")[1].split(".")[0]
    return f"```python\nnumbers = [{hand}]\ntarget = {target}\n{SOLVER_24}\n```"


def test_the_first_problem_teaches_and_later_ones_cost_no_call(tmp_path):
    model = ScriptedTextBackend(programmer)
    problems = make_task("game-of-24").problems("train", 3)
    solutions, account = run(method_of(tmp_path, model), problems)
    assert [s.reason for s in solutions] == ["coarse", "retrieved", "retrieved"]
    assert all(by_world(make_task("game-of-24"))(p, s.text) for p, s in zip(problems, solutions))
    assert account.spent.calls == 1
    assert solutions[0].details["decision"] == {"kept": True, "why": "first"}
    assert isinstance(method_of(tmp_path, model), Method)


def test_what_was_learnt_outlives_the_process_and_serves_another_target(tmp_path):
    model = ScriptedTextBackend(programmer)
    run(method_of(tmp_path, model), make_task("game-of-24").problems("train", 1))
    shifted = make_task("game-of-24?target=36").problems("train", 2)
    solutions, account = run(method_of(tmp_path, model), shifted)
    assert account.spent.calls == 0 and {s.reason for s in solutions} == {"retrieved"}
    assert all(by_world(make_task("game-of-24"))(p, s.text) for p, s in zip(shifted, solutions))


@pytest.mark.parametrize("family", sorted(TASKS))
def test_whole_seed_programs_solve_their_family_without_a_model(tmp_path, family):
    task = make_task(TASKS[family])
    problems = task.problems("train", 4)
    model = ScriptedTextBackend([AssertionError("no call was expected")])
    solutions, _ = run(method_of(tmp_path, model, by_world(task), seeds="programs"), problems)
    texts = [(s.text, p.gold) for p, s in zip(problems, solutions) if not by_world(task)(p, s.text)]
    assert texts == []


def test_wrong_solutions_are_never_kept(tmp_path):
    model = ScriptedTextBackend(["```python\nprint('1 + 2 + 3 + 4')\n```"])
    method = method_of(tmp_path, model)
    problems = make_task("game-of-24").problems("train", 2)
    solutions, account = run(method, problems)
    assert account.spent.calls == 6 and all(s.details["decision"] is None for s in solutions)
    with Buffer(tmp_path / "t.db") as buffer:
        assert buffer.all() == []


def test_a_constant_that_happened_to_be_right_is_not_kept(tmp_path):
    problem = make_task("game-of-24").problems("train", 1)[0]
    model = ScriptedTextBackend([f"```python\nprint({problem.gold!r})\n```"])
    (solution,), _ = run(method_of(tmp_path, model), [problem])
    assert solution.text == problem.gold
    assert solution.details["decision"] == {"kept": False, "why": "constant"}


def test_what_nobody_can_check_is_not_learnt(tmp_path):
    model = ScriptedTextBackend(["```python\nprint('01/01/2020')\n```"])
    (solution,), _ = run(method_of(tmp_path, model), make_task("dates").problems("train", 1))
    assert (solution.reason, solution.text, solution.details["decision"]) == (
        "coarse",
        "01/01/2020",
        None,
    )


def sorter(request):
    """Writes a program for one direction only, as the question says."""
    said = request.prompt.messages[0]["content"].split("Problem:\n")[1]
    words = said.split("list: ")[1].split("\n")[0].split(", ")
    falls = "these words in descending" in said
    return f"```python\nprint(', '.join(sorted({words!r}, reverse={falls})))\n```"


def test_a_narrow_template_is_widened_by_a_second_example(tmp_path):
    task = make_task("reasoning-gym:word_sorting?max_words=5")
    problems = task.problems("train", 30)
    up = [p for p in problems if "these words in ascending" in p.id][:4]
    down = [p for p in problems if "these words in descending" in p.id][:4]
    model = ScriptedTextBackend(sorter)
    solutions, account = run(method_of(tmp_path, model), [up[0], down[0], *up[1:], *down[1:]])
    assert all(
        by_world(task)(p, s.text) for p, s in zip([up[0], down[0], *up[1:], *down[1:]], solutions)
    )
    assert solutions[1].details["decision"] == {"kept": True, "why": "widened"}
    assert account.spent.calls == 2
    with Buffer(tmp_path / "t.db") as buffer:
        (template,) = buffer.all()
        assert {slot.how for slot in template.slots} >= {"items"} and len(template.slots) == 2


def test_a_sketch_gives_way_to_the_program_that_it_led_to(tmp_path):
    model = ScriptedTextBackend(programmer)
    problems = make_task("game-of-24").problems("train", 3)
    solutions, account = run(method_of(tmp_path, model, seeds="skeletons"), problems)
    assert [s.reason for s in solutions] == ["retrieved"] * 3 and account.spent.calls == 1
    assert solutions[0].details["decision"]["kept"]
    assert solutions[0].details["template"] != solutions[1].details["template"]


def test_poison_is_passed_over_and_retired(tmp_path):
    good = ThoughtTemplate(
        "mathematics",
        "Use the numbers to make a number.",
        "code",
        SOLVER_24,
        (Slot("numbers", "list", "numbers[:-1]"), Slot("target", "int", "numbers[-1]")),
    )
    bad = ThoughtTemplate(
        "mathematics",
        "Use the numbers with +, -, *, / and brackets to make a number. Use each exactly once.",
        "code",
        "print('1 + 1')",
        (Slot("numbers", "list", "numbers"),),
    )

    async def poisoned():
        with Buffer(tmp_path / "t.db", HashingEmbedder()) as buffer:
            await buffer.add(good)
            await buffer.add(bad)

    asyncio.run(poisoned())
    model = ScriptedTextBackend([AssertionError("no call was expected")])
    task = make_task("game-of-24")
    method = method_of(tmp_path, model, weight=1.0)
    solutions, _ = run(method, task.problems("train", 14))
    assert {s.details["template"] for s in solutions} == {good.id}
    assert [s.details["tried"] for s in solutions[-3:]] == [1, 1, 1]
    with Buffer(tmp_path / "t.db") as buffer:
        assert buffer.get(good.id).stats == Stats(14, 0)
        assert buffer.get(bad.id).stats.failure >= 1


def test_a_template_that_only_fails_is_retired(tmp_path):
    bad = ThoughtTemplate(
        "mathematics",
        "Use the numbers with +, -, *, / and brackets to make a number.",
        "code",
        "print('1 + 1')",
        (Slot("numbers", "list", "numbers"),),
    )

    async def poisoned():
        with Buffer(tmp_path / "t.db", HashingEmbedder()) as buffer:
            await buffer.add(bad)

    asyncio.run(poisoned())
    model = ScriptedTextBackend(["no program"])
    problems = make_task("game-of-24").problems("train", 12)
    solutions, _ = run(method_of(tmp_path, model, attempts=1), problems)
    assert [s.details["tried"] for s in solutions] == [2] * 10 + [1, 1]
    with Buffer(tmp_path / "t.db") as buffer:
        assert buffer.is_retired(bad.id) and buffer.all() == []


def test_no_budget_is_an_answer_too(tmp_path):
    problems = make_task("game-of-24").problems("train", 1)
    solutions, account = run(
        method_of(tmp_path, ScriptedTextBackend(programmer)), problems, Budget(calls=0)
    )
    assert (solutions[0].text, solutions[0].reason, account.spent.calls) == ("", "budget", 0)


DISTILLED = {
    "variables": [{"name": "words", "value": "b, a"}],
    "objective": "Put the words in order.",
    "rules": "",
    "meta_problem": "Sorting a list of words.",
    "answer_form": "a list",
    "category": "programming",
}


def test_a_model_distils_under_a_schema(tmp_path):
    def distiller(request):
        schema = json.loads(request.sampling.json_schema)
        if "objective" in schema["properties"]:
            return json.dumps(DISTILLED)
        return json.dumps(
            {"description": "Sorting words.", "category": "programming", "steps": "s"}
        )

    task = make_task("reasoning-gym:word_sorting?max_words=4")
    config = ThoughtConfig(path=str(tmp_path / "t.db"), distiller="model")
    judge = ScriptedTextBackend(distiller)
    method = ThoughtBuffer(
        Roles(ScriptedTextBackend(sorter), {"distiller": judge}),
        OwnPrograms,
        config,
        embedder=HashingEmbedder(),
    )
    solutions, account = run(method, task.problems("train", 1))
    assert solutions[0].details["decision"]["kept"] and account.by_role["distiller"].calls == 2
    with Buffer(tmp_path / "t.db") as buffer:
        assert buffer.all()[0].description == "Sorting words."


def test_a_question_without_a_program_keeps_its_worked_example(tmp_path):
    model = ScriptedTextBackend(["It is cold there.\nAnswer: no"])
    problems = [
        Problem(f"q{k}", ({"role": "user", "content": text},), "no")
        for k, text in enumerate(
            ["Do palms grow in the Arctic?", "Do palms grow in the Antarctic?"]
        )
    ]
    method = method_of(tmp_path, model, lambda problem, text: text == problem.gold)
    solutions, _ = run(method, problems)
    assert [(s.text, s.reason) for s in solutions] == [("no", "coarse"), ("no", "retrieved")]
    assert "Arctic" in model.requests[1].prompt.messages[0]["content"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"use_above": 1.5}, "cosine"),
        ({"attempts": 0}, "at least 1"),
        ({"weight": -1}, r"\[0, 1\]"),
        ({"embed_url": "http://x"}, "go together"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        ThoughtConfig(**settings)
