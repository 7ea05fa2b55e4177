"""What does the teacher say? Raw answers to problems, each sampled once and kept at once.

    await sample(task, teacher, path, SampleSettings(count=...)) -> SampleReport

`path` is JSON lines, one answer each, keyed by (problem, sample): what stands there is not asked
again, so a run that was killed, or whose budget was spent, goes on where it was. The seed of each
answer follows from its key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolute.lang.account import Account, Spent
from evolute.lang.backend import TextBackend, TextRequest
from evolute.lang.metered import Metered
from evolute.reasoning.asking import prompt_of
from evolute.reasoning.demonstrations.trace import SYSTEM
from evolute.reasoning.method import seed_of
from evolute.telemetry import RecordWriter, read_records
from evolute.types import (
    BackendError,
    BudgetSpent,
    ConfigError,
    Message,
    OutOfCapacity,
    Problem,
    SamplingParams,
    Task,
)

ROLE = "teacher"
THOUGHT_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class SampleReport:
    """What one call did. `num_left` answers are still to be had: budget or teacher ended first."""

    num_made: int
    num_there: int
    num_left: int
    failures: dict[str, int]
    spent: Spent


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """What is asked: `samples` answers to each of `count` problems."""

    count: int
    samples: int = 1
    split: str = "train"
    seed: int = 0
    system: str = SYSTEM  # "": none
    temperature: float = 0.7
    max_new_tokens: int = 0  # 0: as many as the task says, and room for a thought

    def header(self, task: Task, teacher: TextBackend) -> dict[str, Any]:
        """What all answers of one file have in common."""
        names = ("split", "seed", "system", "temperature")
        own = {name: getattr(self, name) for name in names}
        return {"task": task.name, **own, "teacher": teacher.model_name}


async def sample(
    task: Task,
    teacher: TextBackend,
    path: Path,
    settings: SampleSettings,
    *,
    account: Account | None = None,
    concurrency: int = 32,
    on_progress: Callable[[int], None] | None = None,
) -> SampleReport:
    """Ask for the answers that `path` does not hold yet.

    A spent budget ends the call, a failed answer only itself: both can be asked for again.
    RequestError rises. Raises ConfigError when `path` is of another task or other settings.
    """
    account = account or Account()
    header = settings.header(task, teacher)
    limit = settings.max_new_tokens or task.max_new_tokens + THOUGHT_TOKENS
    there = _there(path, header)
    problems = task.problems(settings.split, settings.count, settings.seed)
    jobs = [
        (at, n)
        for at, p in enumerate(problems)
        for n in range(settings.samples)
        if (p.id, n) not in there
    ]
    sampler = _Sampler(Metered(teacher, account, ROLE), header, limit)
    gate, failures, made = asyncio.Semaphore(concurrency), dict[str, int](), 0
    before = account.spent
    is_new = not read_records(path)
    with RecordWriter(path) as writer:
        if is_new:
            writer.write({"kind": "settings", **header})

        async def one(at: int, number: int) -> None:
            nonlocal made
            async with gate:
                if "BudgetSpent" in failures:
                    return
                try:
                    row = {"number": at} | await sampler.ask(problems[at], number)
                except (BackendError, OutOfCapacity, BudgetSpent) as error:
                    name = type(error).__name__
                    failures[name] = failures.get(name, 0) + 1
                    return
            writer.write(row)
            made += 1
            if on_progress:
                on_progress(len(there) + made)

        await _all([one(*job) for job in jobs])
    spent = _difference(account.spent, before)
    return SampleReport(made, len(there), len(jobs) - made, failures, spent)


def read_raw(path: Path) -> list[dict[str, Any]]:
    """The answers of a file of `sample`, without its first line."""
    return [row for row in read_records(path) if row.get("kind") == "answer"]


def problems_of(task: Task, path: Path) -> list[Problem]:
    """The problems that a file of `sample` has answers to. Raises ConfigError for another task's,
    or for none."""
    rows = read_records(path)
    if not rows or rows[0].get("kind") != "settings":
        raise ConfigError(f"{path} is no file of `demonstrations sample`.")
    if rows[0]["task"] != task.name:
        raise ConfigError(f"{path} has answers to {rows[0]['task']!r}, not to {task.name!r}.")
    count = max((row["number"] + 1 for row in read_raw(path)), default=0)
    return task.problems(rows[0]["split"], count, rows[0]["seed"]) if count else []


# -- internals ---------------------------------------------------------------


class _Sampler:
    """Asks one teacher in one way."""

    def __init__(self, teacher: TextBackend, settings: dict[str, Any], limit: int) -> None:
        self._teacher, self._settings, self._limit = teacher, settings, limit

    async def ask(self, problem: Problem, number: int) -> dict[str, Any]:
        system: list[Message] = [{"role": "system", "content": self._settings["system"]}]
        messages = [*(system if self._settings["system"] else []), *problem.messages]
        drawn = seed_of(problem.id, "demonstration", self._settings["seed"], number)
        params = SamplingParams(
            max_new_tokens=self._limit, temperature=self._settings["temperature"], seed=drawn
        )
        request = TextRequest(await prompt_of(self._teacher, messages), params)
        (output,) = (await self._teacher.generate(request)).outputs
        return {
            "kind": "answer",
            "problem_id": problem.id,
            "sample": number,
            "prompt": [dict(message) for message in messages],
            "gold": problem.gold,
            "text": output.text,
            "finish_reason": str(output.finish_reason or ""),
        }


def _there(path: Path, settings: dict[str, Any]) -> set[tuple[str, int]]:
    """Keys of the answers that are kept already."""
    rows = read_records(path)
    if not rows:
        return set()
    first = {k: v for k, v in rows[0].items() if k != "kind"}
    if rows[0].get("kind") != "settings" or first != settings:
        other = next((k for k in settings if first.get(k) != settings[k]), "kind")
        raise ConfigError(
            f"{path} was sampled with {other} = {first.get(other)!r}, now it is "
            f"{settings.get(other)!r}; name another file."
        )
    return {(row["problem_id"], row["sample"]) for row in rows if row.get("kind") == "answer"}


async def _all(jobs: list[Any]) -> None:
    """Run them; after an error none is left behind."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _difference(after: Spent, before: Spent) -> Spent:
    names = Spent.__slots__
    return Spent(*(getattr(after, n) - getattr(before, n) for n in names))
