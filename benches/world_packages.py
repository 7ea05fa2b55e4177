"""Do the worlds of other packages run here unmodified? Asked of the real packages.

    python benches/world_packages.py skyrl-gym | verifiers | openenv

Each in an environment that has the package (verifiers pins openai<3), prometheus-client and this
source on PYTHONPATH. skyrl-gym: what runs without a service, and our word problems and answers
beside its own graders. verifiers: a task set written here. OpenEnv: a server started here.
Raises AssertionError where something differs that should not.
"""

from __future__ import annotations

import json
import random
import re
import sqlite3
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from evolute.envs import make_task
from evolute.envs.maths import is_right
from evolute.envs.sql.task import case_of, sql_task
from evolute.envs.step import read_step
from evolute.types import Problem, StepResult, Task

ANSWERS = (
    "42", "$42$", r"\boxed{42}", "42.", "1,234", r"\frac12", "x + 1", r"\sqrt2", "(1, 2)", "042",
    "41", r"$\frac{1}{2}$", "42 units", "x = 42", r"42^\circ", r"\text{42}",
)  # fmt: skip
GOLDS = ("42", "1/2", r"\frac{1}{2}", "1234", "x+1", r"\sqrt{2}", "(1,2)")
KNOWN = {("42", "42."), ("42", "042")}  # right here, wrong there: see envs/maths/minerva.py


def play(task: Task, problem: Problem, *actions: str) -> list[StepResult]:
    env, steps = task.make(problem), []
    env.init(list(problem.messages))
    for action in actions:
        steps.append(read_step(env.step(action)))
        if steps[-1].done:
            break
    env.close()
    return steps


def of_row(row: dict[str, Any]) -> Problem:
    return Problem("row", tuple(row["prompt"]), "", {"row": row})


def skyrl_gym(folder: Path) -> None:
    multi_turn(folder)
    different = set()
    from skyrl_gym.envs.aime.utils import compute_score

    for gold in GOLDS:
        for answer in ANSWERS:
            text = f"Answer: {answer}"
            if compute_score(text, gold)["acc"] != is_right(text, gold):
                different.add((gold, answer))
    assert different == KNOWN, different
    print(f"aime: {len(GOLDS) * len(ANSWERS)} answers, {len(different)} judged otherwise, as meant")
    text_to_sql(folder)
    tests = json.dumps([{"input": "3\n", "output": "6\n", "testtype": "stdin"}])
    row = {
        "prompt": [{"role": "user", "content": "double"}],
        "reward_spec": {"ground_truth": tests},
    }
    task = make_task(f"skyrl-gym:lcb?data={written(folder / 'lcb', [row])}")
    codes = ("```python\nprint(2*int(input()))\n```", "```python\nprint(1)\n```")
    assert [play(task, of_row(row), code)[-1].reward for code in codes] == [1.0, 0.0]
    print("lcb: right and wrong programs told apart")


def multi_turn(folder: Path) -> None:
    """Our word problems and skyrl-gym's environment on the same talks."""
    ours = make_task("word-problems?turns=3")
    problems = ours.problems("train", 50)
    rows = [
        {
            "prompt": list(problem.messages),
            "reward_spec": {"ground_truth": problem.gold.split("#### ")[1]},
            "extra_info": {"max_turns": 3},
        }
        for problem in problems
    ]
    theirs = make_task(f"skyrl-gym:gsm8k_multi_turn?data={written(folder / 'gsm8k', rows)}")
    for row, problem in zip(rows, problems):
        for talk in (("#### 1", "nothing", problem.gold), ("#### 1",) * 3, (problem.gold,), "abc"):
            there = [(round(s.reward, 6), s.done) for s in play(theirs, of_row(row), *talk)]
            here = [(round(s.reward, 6), s.done) for s in play(ours, problem, *talk)]
            assert there == here, (talk, there, here)
    print(f"gsm8k_multi_turn: equal rewards on {4 * len(rows)} talks")


def text_to_sql(folder: Path) -> None:
    ours, rows = sql_task("sql?level=1"), []
    for k, problem in enumerate(ours.problems("train", 3)):
        place = folder / "spider" / "database" / f"db{k}"
        place.mkdir(parents=True)
        connection = sqlite3.connect(place / f"db{k}.sqlite")
        connection.executescript(case_of(ours.name, problem, ours.shape).scripts[0])
        connection.close()
        truth = {"ground_truth": problem.gold}
        rows.append({"prompt": list(problem.messages), "db_id": f"db{k}", "data": "spider",
                     "reward_spec": truth, "max_turns": 3})  # fmt: skip
    config = json.dumps({"db_path": str(folder)})
    task = make_task(f"skyrl-gym:text2sql?data={written(folder / 'sql', rows)}&config={config}")
    for row in rows:
        query = row["reward_spec"]["ground_truth"]
        right = (
            f"<think>a</think><sql>{query}</sql>",
            f"<think>b</think><solution>{query}</solution>",
        )
        wrong = "<solution>SELECT 'q'</solution>"
        assert [s.reward for s in play(task, of_row(row), *right)] == [0.0, 1.0]
        assert play(task, of_row(row), f"<think>b</think>{wrong}")[-1].reward == 0.0
        assert play(task, of_row(row), wrong)[-1].reward == -1.0
    print("text2sql: three databases, right, wrong and formless answers")


def verifiers(folder: Path) -> None:
    import verifiers.v1 as v1

    class Sum(v1.TaskData):
        answer: str = ""

    class SumTask(v1.Task[Sum]):
        @v1.reward(weight=1.0)
        async def right(self, trace: Any) -> float:
            return float(trace.last_reply == self.data.answer)

    class Sums(v1.Taskset[SumTask, v1.TasksetConfig]):
        def load(self) -> Any:
            for k in range(30):
                data = Sum(prompt=f"What is {k} + 1?", system_prompt="Brief.", answer=str(k + 1))
                yield SumTask(data, self.config.task)

    module = ModuleType("sums_taskset")
    module.__dict__.update(Sums=Sums, __all__=["Sums"])
    sys.modules["sums_taskset"] = module
    task = make_task("verifiers:sums-taskset")
    problems = task.problems("train", 15)
    for problem in problems:
        found = re.search(r"(\d+) \+", problem.messages[-1]["content"])
        assert found
        assert play(task, problem, str(int(found[1]) + 1))[-1].reward == 1.0
        assert play(task, problem, "no")[-1].reward == 0.0
    print(f"verifiers: {len(problems)} tasks scored by their own reward")


def openenv(folder: Path) -> None:
    import uvicorn
    from openenv.core import env_server
    from openenv.core.env_server.interfaces import Environment
    from openenv.core.env_server.types import Action, Observation, State

    class Guess(Action):
        message: str

    class Told(Observation):
        prompt: str = ""

    class Game(Environment):
        SUPPORTS_CONCURRENT_SESSIONS = True
        secret = 0

        def reset(self, seed: Any = None, episode_id: Any = None, **_: Any) -> Told:
            self.secret = random.Random(seed).randint(1, 100)
            return Told(prompt=f"guess {self.secret}", done=False, reward=0.0)

        def step(self, action: Guess, timeout_s: Any = None, **_: Any) -> Told:
            right = action.message == str(self.secret)
            return Told(prompt="again", done=right, reward=float(right))

        @property
        def state(self) -> State:
            return State(episode_id="x", step_count=0)

    app = env_server.create_fastapi_app(Game, Guess, Told)
    server = uvicorn.Server(uvicorn.Config(app, port=18765, log_level="warning"))
    threading.Thread(target=server.run, daemon=True).start()
    until = time.monotonic() + 20
    while not server.started and time.monotonic() < until:
        time.sleep(0.1)
    task = make_task("openenv:http://127.0.0.1:18765?turns=3")
    for problem in task.problems("train", 3):
        env = task.make(problem)
        messages, _ = env.init(problem.messages)
        steps = [read_step(env.step(text)) for text in ("no", messages[0]["content"].split()[1])]
        env.close()
        assert [(s.reward, s.done) for s in steps] == [(0.0, False), (1.0, True)]
        assert [s.done for s in play(task, problem, "no", "no", "no")] == [False, False, True]
    print("openenv: three episodes of a real server")


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


if __name__ == "__main__":
    asked = {"skyrl-gym": skyrl_gym, "verifiers": verifiers, "openenv": openenv}
    with tempfile.TemporaryDirectory() as temporary:
        asked[sys.argv[1]](Path(temporary))
