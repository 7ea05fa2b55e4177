import asyncio

import pytest

from evolute.engine import Engine
from evolute.envs import TextEnv, make_task, run_episode, task_names, validate
from evolute.models import load_model
from evolute.types import ConfigError, Outcome, Problem, SamplingParams


@pytest.mark.parametrize("name", task_names())
def test_a_task_validates_itself(name):
    validate(make_task(name), 30)


def test_a_task_that_is_wrong_about_itself_is_refused():
    class Wrong:
        name, max_new_tokens = "wrong", 4

        def __init__(self, grade):
            self.grade = grade

        def problems(self, split, count, seed=0):
            return [Problem("q", ({"role": "user", "content": "q"},), "5")] * count

        def make(self, problem):
            return TextEnv(self.grade)

    with pytest.raises(ConfigError, match=r"gives '5' a reward of 0\.0"):
        validate(Wrong(lambda action: 0.0))
    with pytest.raises(ConfigError, match=r"gives 'no idea' a reward of 1\.0"):
        validate(Wrong(lambda action: 1.0))


@pytest.mark.parametrize("name", task_names())
def test_splits_are_disjoint_and_repeatable(name):
    task = make_task(name)
    few = {"addition-1": 60, "multiplication-1": 60, "checkmate-in-one": 20}  # small, or slow
    count = few.get(name, 200)
    train, held = task.problems("train", count, seed=1), task.problems("heldout", 15, seed=2)
    assert not {p.id for p in train} & {p.id for p in held}
    assert len({p.id for p in train}) == count
    assert task.problems("train", count, seed=1) == train


def test_a_small_family_says_so():
    with pytest.raises(ConfigError, match="ask for fewer"):
        make_task("addition-1").problems("train", 500)


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(ConfigError, match="addition-2"):
        make_task("adition-2")


def test_our_tasks_take_no_options():
    with pytest.raises(ConfigError, match=r"takes no options; drop '\?digits=3'"):
        make_task("addition-2?digits=3")


@pytest.mark.parametrize(
    ("name", "answer", "reward"),
    [
        ("addition-2", "{gold}", 1.0),
        ("addition-2", "The sum is {gold}.", 1.0),
        ("addition-2", "{gold} or maybe 3", 0.0),
        ("multiplication-2", "{gold:,}", 1.0),
        ("reverse-word", 'It is "{gold}".', 1.0),
        ("reverse-word", "{gold} I think", 0.0),
    ],
)
def test_an_answer_is_read_as_people_write_it(name, answer, reward):
    task = make_task(name)
    (problem,) = task.problems("train", 1)
    gold = int(problem.gold) if problem.gold.isdigit() else problem.gold
    assert task.make(problem).step(answer.format(gold=gold)).reward == reward


def test_a_hint_comes_back_until_the_turns_are_used_up():
    world = TextEnv(lambda action: float(action == "5"), max_turns=3)
    first, second, third = (world.step(action) for action in ("1", "2", "3"))
    assert not first.done and not second.done and third.done and third.reward == 0.0
    assert first.observations[0]["content"] == "Wrong. Try again."
    assert TextEnv(lambda action: 1.0, max_turns=3).step("5").done


def test_the_guessing_game_can_be_won_by_halving():
    task = make_task("guess-number")
    (problem,) = task.problems("train", 1, seed=4)
    world = task.make(problem)
    high = int(problem.messages[0]["content"].split("1 to ")[1].split(".")[0])
    low = 1
    for _ in range(task.max_turns):
        guess = (low + high) // 2
        step = world.step(str(guess))
        if step.done:
            break
        told = step.observations[0]["content"]
        low, high = (guess + 1, high) if told == "higher" else (low, guess - 1)
    assert low <= int(problem.gold) <= high
    assert world.get_metrics()["turns"] <= task.max_turns


def test_several_turns_on_the_engine_are_recorded_token_by_token():
    task = make_task("guess-number")
    (problem,) = task.problems("train", 1)
    seen = []
    with Engine(load_model("tiny"), page_size=4) as engine:
        inner = engine.agenerate

        async def spy(request):
            seen.append(request.prompt)
            return await inner(request)

        engine.agenerate = spy
        sampling = SamplingParams(max_new_tokens=5)
        rollout = asyncio.run(run_episode(task, problem, engine, sampling, seed=1))
    (sample,) = rollout.samples
    assert rollout.outcome in (Outcome.DONE, Outcome.TRUNCATED)
    assert len(seen) > 1 and sum(sample.loss_mask) < len(sample.loss_mask)
    whole = (*sample.prompt_ids, *sample.response_ids)
    assert all(whole[: len(prompt)] == prompt for prompt in seen)
    assert all(lp == 0.0 for lp, m in zip(sample.rollout_logprobs, sample.loss_mask) if not m)
