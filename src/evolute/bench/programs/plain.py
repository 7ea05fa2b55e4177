"""The programs of `lang/shapes` as somebody writes them with the `openai` client.

    run_plainly(name, api, arguments) -> what each program answered, in order
    Api(url, forks_at_once=...)          completions, chats, choices

A pool of threads runs the programs at the same time. With `forks_at_once` a second pool runs the
branches of each at the same time, too; without it they are calls in a loop, as in the baselines of
SGLang's benchmarks. Prompts are texts; a grammar goes into the body as our server takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import evolute.lang.shapes.agents as agents
import evolute.lang.shapes.branch_solve_merge as branch_solve_merge
import evolute.lang.shapes.few_shot as few_shot
import evolute.lang.shapes.json_decode as json_decode
import evolute.lang.shapes.multi_turn as multi_turn
import evolute.lang.shapes.rag as rag
import evolute.lang.shapes.react as react
import evolute.lang.shapes.selection as selection
import evolute.lang.shapes.skeleton as skeleton
import evolute.lang.shapes.tree_of_thought as tree_of_thought

T = TypeVar("T")
U = TypeVar("U")
TIMEOUT_S = 600.0
MAX_THREADS = 64
Answers = dict[str, Any]


class Api:
    """One client for all threads. Greedy."""

    def __init__(self, url: str, *, forks_at_once: bool) -> None:
        from openai import OpenAI

        self._client = OpenAI(base_url=f"{url}/v1", api_key="-", timeout=TIMEOUT_S, max_retries=0)
        self._branches = ThreadPoolExecutor(4 * MAX_THREADS) if forks_at_once else None

    def text(self, prompt: str, most: int, *, stop: str | None = None, **body: Any) -> str:
        answer = self._client.completions.create(
            model="default", prompt=prompt, max_tokens=most, temperature=0, stop=stop,
            extra_body=body,
        )  # fmt: skip
        return answer.choices[0].text

    def chat(self, messages: list[Any], most: int, *, stop: str | None = None, **body: Any) -> str:
        answer = self._client.chat.completions.create(
            model="default", messages=messages, max_tokens=most, temperature=0, stop=stop,
            extra_body=body,
        )  # fmt: skip
        return answer.choices[0].message.content or ""

    def choose(self, prompt: str, choices: Sequence[str]) -> str:
        """The highest mean log-probability of its own tokens."""
        means = self.each(lambda choice: self._mean(prompt, choice), choices)
        return choices[means.index(max(means))]

    def each(self, function: Callable[[T], U], items: Sequence[T]) -> list[U]:
        """The branches of one program."""
        if self._branches is None:
            return [function(item) for item in items]
        return list(self._branches.map(function, items))

    def close(self) -> None:
        self._client.close()
        if self._branches is not None:
            self._branches.shutdown()

    def _mean(self, prompt: str, choice: str) -> float:
        answer = self._client.completions.create(
            model="default", prompt=prompt + choice, max_tokens=0, temperature=0, echo=True,
            logprobs=1,
        )  # fmt: skip
        told = answer.choices[0].logprobs
        assert told is not None and told.text_offset is not None
        pairs = zip(told.text_offset, told.token_logprobs or ())
        own = [value for at, value in pairs if at >= len(prompt) and value is not None]
        return sum(own) / len(own)


def run_plainly(name: str, api: Api, arguments: Sequence[Mapping[str, Any]]) -> list[Answers]:
    program = PROGRAMS[name]
    with ThreadPoolExecutor(MAX_THREADS) as pool:
        return list(pool.map(lambda given: program(api, **given), arguments))


# -- the programs --------------------------------------------------------------


def _few_shot(api: Api, question: str) -> Answers:
    prompt = f"{few_shot.SHOTS}Question: {question}\nAnswer:"
    return {"answer": api.text(prompt, 4, stop="\n")}


def _selection(api: Api, story: str, endings: list[str]) -> Answers:
    return {"ending": api.choose(f"{selection.SHOTS}Story: {story}\nEnding:", endings)}


def _react(api: Api, question: str) -> Answers:
    prompt, found = f"{react.HEAD}Question: {question}\n", {}
    for step in range(1, react.STEPS + 1):
        prompt += f"Thought {step}:"
        found[f"thought_{step}"] = thought = api.text(prompt, 24, stop="\n")
        prompt += f"{thought}\nAction {step}: "
        found[f"action_{step}"] = action = api.text(prompt, 16, regex=react.ACTION)
        prompt += f"{action}\nObservation {step}: {react.look_up(action)}\n"
    return {**found, "answer": api.text(f"{prompt}Answer:", 16, stop="\n")}


def _agents(api: Api, kind: str, about: str, event: str) -> Answers:
    prompt = f"{agents.TOWN}Task: {agents.KINDS[kind]}\nPerson: {about}\nEvent: {event}\nAnswer:"
    if kind == "poignancy":
        return {"answer": api.text(f"{prompt} ", 4, regex="([1-9]|10)")}
    return {"answer": api.text(prompt, 24, stop="\n")}


def _tree_of_thought(api: Api, problem: str) -> Answers:
    head = f"{tree_of_thought.HEAD}Problem: {problem}\n"

    def plan(number: int) -> tuple[str, str]:
        prompt = f"{head}Plan {number}:"
        found = api.text(prompt, 32, stop="\n")
        return prompt + found, found

    def solve(branch: tuple[tuple[str, str], int]) -> tuple[str, str, str]:
        (prompt, found), number = branch
        prompt += f"\nSolution {number}:"
        solution = api.text(prompt, 32, stop="\n")
        prompt += f"{solution}\nWorth from 0 to 9: "
        return found, solution, api.text(prompt, 2, regex="[0-9]")

    plans = api.each(plan, range(1, tree_of_thought.PLANS + 1))
    numbers = range(1, tree_of_thought.SOLUTIONS + 1)
    leaves = api.each(solve, [(one, number) for one in plans for number in numbers])
    best = max(leaves, key=lambda leaf: leaf[2])
    prompt = f"{head}Plan:{best[0]}\nSolution:{best[1]}\nTherefore the answer is"
    return {"answer": api.text(prompt, 16, stop="\n")}


def _skeleton(api: Api, topic: str) -> Answers:
    prompt = f"{skeleton.HEAD}Topic: {topic}\nOutline:\n"
    outline = api.text(prompt, 64, regex=skeleton.OUTLINE)

    def expand(point: str) -> str:
        return api.text(f"{prompt}{outline}\nPoint {point}\nSentence:", 32, stop="\n")

    return {"outline": outline, "sentence": api.each(expand, outline.splitlines())}


def _branch_solve_merge(api: Api, essay: str) -> Answers:
    asked = f"Here is an essay:\n{essay}\nIs it about a person? Answer yes or no."
    messages = [_said("system", branch_solve_merge.SYSTEM), _said("user", asked)]
    related = api.chat(messages, 4, regex="(yes|no)")
    messages.append(_said("assistant", related))

    def judge(respect: str) -> str:
        turn = _said("user", f"Judge its {respect} in one sentence.")
        return api.chat([*messages, turn], 32, stop="\n")

    respects = branch_solve_merge.RESPECTS
    judged = api.each(judge, respects)
    told = "\n".join(f"{r}: {j}" for r, j in zip(respects, judged))
    asked = f"These are the judgements:\n{told}\nWhich grade does it get, A to D?"
    grade = api.chat([*messages, _said("user", asked)], 4, regex="[A-D][+-]?")
    return {"related": related, "judgement": judged, "grade": grade}


def _json_decode(api: Api, account: str) -> Answers:
    prompt = f"{json_decode.HEAD}Account: {account}\nFacts as JSON:\n"
    return {"facts": api.text(prompt, 128, regex=json_decode.FORM)}


def _talk(api: Api, questions: list[str], length: int) -> Answers:
    messages: list[Any] = []
    found = {}
    for i, question in enumerate(questions):
        messages.append(_said("user", question))
        answer = api.chat(messages, length, ignore_eos=True)
        found[f"answer_{i}"] = answer
        messages.append(_said("assistant", answer))
    return found


def _rag(api: Api, context: list[str], question: str) -> Answers:
    passages = "\n".join(context)
    prompt = f"{rag.HEAD}Passages:\n{passages}\nQuestion: {question}\nAnswer:"
    return {"answer": api.text(prompt, 24, stop="\n")}


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


PROGRAMS: dict[str, Callable[..., Answers]] = {
    "few_shot": _few_shot,
    "selection": _selection,
    "react": _react,
    "agents": _agents,
    "tree_of_thought": _tree_of_thought,
    "skeleton": _skeleton,
    "branch_solve_merge": _branch_solve_merge,
    "json_decode": _json_decode,
    "multi_turn_short": lambda api, questions: _talk(api, questions, multi_turn.SHORT),
    "multi_turn_long": lambda api, questions: _talk(api, questions, multi_turn.LONG),
    "rag": _rag,
}
