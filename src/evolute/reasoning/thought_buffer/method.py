"""How are problems solved with a memory of solved ones? Buffer of Thoughts (arXiv 2406.04271).

    ThoughtBuffer(roles, sandbox, config)      a Method

    distill -> retrieve -> fill the template -> check -> count the outcome
                   \\-> nothing alike: a coarse one -> right? -> distill the solution -> add if new

Where a problem can be checked without its gold answer (`envs.puzzles.check_for`), or a `verify`
is given (on a build split; `by_world(task)` asks the task itself), a wrong answer counts against
its template and the next one is tried. Elsewhere the first answer stands, nothing is counted and
nothing learnt. Roles: `solver`, `distiller` (with `distiller = "model"`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from evolute.envs.puzzles import check_for
from evolute.envs.sandbox.contract import Sandbox
from evolute.lang.account import Account
from evolute.lang.metered import Metered
from evolute.reasoning.method import Roles, Solution, seed_of
from evolute.reasoning.thought_buffer.buffer import Buffer
from evolute.reasoning.thought_buffer.distill import Distilled, distill, extract
from evolute.reasoning.thought_buffer.embedders import Embedder, EmbeddingEndpoint, MiniLM
from evolute.reasoning.thought_buffer.induce import (
    Example,
    antiunify,
    distill_solution,
    examples_of,
)
from evolute.reasoning.thought_buffer.instantiate import Instance, Instantiator
from evolute.reasoning.thought_buffer.manager import Decision, Evidence, decide
from evolute.reasoning.thought_buffer.retrieve import Match
from evolute.reasoning.thought_buffer.seeds import coarse_template, seed_templates
from evolute.reasoning.thought_buffer.settings import ThoughtConfig
from evolute.reasoning.thought_buffer.template import ASKED, CHOSEN, Stats, ThoughtTemplate
from evolute.types import BudgetSpent, Problem, SamplingParams, Task
from evolute.types.settings import from_mapping

RUNS_ALONE = 0.1  # of likeness
Verify = Callable[[Problem, str], bool | None]


def by_own_check(problem: Problem, text: str) -> bool | None:
    """Right or wrong where that can be told without the gold answer, else None."""
    check = check_for(problem)
    return None if check is None else check(text)


def by_world(task: Task) -> Verify:
    """Right or wrong by the task's own world, gold answers and all: for build splits only."""

    def verify(problem: Problem, text: str) -> bool:
        env = task.make(problem)
        try:
            env.init(problem.messages)
            return env.step(text).reward >= 1
        finally:
            env.close()

    return verify


class ThoughtBuffer:
    """Reasons: `retrieved`, `coarse` (nothing stored was alike, or nothing that was alike was
    right), `budget` (the best so far, or nothing)."""

    name = "thought_buffer"

    def __init__(
        self,
        roles: Roles,
        sandbox: Callable[[], Sandbox],
        config: ThoughtConfig,
        *,
        embedder: Embedder | None = None,
        verify: Verify = by_own_check,
    ) -> None:
        self._roles, self._sandbox, self._config, self._verify = roles, sandbox, config, verify
        self.buffer = Buffer(config.path, embedder or embedder_of(config), weight=config.weight)
        self._seeding: asyncio.Lock | None = None
        self._made: Sandbox | None = None

    def close(self) -> None:
        self.buffer.close()

    async def solve(self, problem: Problem, account: Account) -> Solution:
        await self._plant()
        attempt = _Attempt(problem, str(problem.messages[-1]["content"]))
        try:
            await self._solve(attempt, account)
        except BudgetSpent:
            return attempt.solution("budget")
        return attempt.solution(attempt.reason)

    # -- internals ---------------------------------------------------------------

    async def _solve(self, attempt: _Attempt, account: Account) -> None:
        fill = self._instantiator(account)
        distilled = await self._distilled(attempt, account)
        matches = await self.buffer.nearest(distilled.query)
        attempt.similarity = max((m.similarity for m in matches), default=None)
        usable = self._cheap_first([m for m in matches if m.similarity >= self._config.use_above])
        for match in usable[: self._config.attempts]:
            if await self._retrieved(attempt, match, distilled, fill):
                break
        else:
            await self._coarse(attempt, distilled, fill)
        if attempt.is_right and self._config.grow and attempt.wants_learning:
            await self._learn(attempt, distilled, fill, account)

    async def _retrieved(
        self, attempt: _Attempt, match: Match, distilled: Distilled, fill: Instantiator
    ) -> bool:
        """Whether the answer of this template stands."""
        template = self.buffer.get(match.id)
        seed = seed_of(attempt.problem.id, self.name, match.id)
        instance = await fill.fill(template, distilled, attempt.said, seed=seed)
        is_right = self._judge(attempt.problem, instance)
        attempt.take(instance, is_right, "retrieved", template.id, match.similarity)
        if is_right is not None:
            self.buffer.record(template.id, is_right)
        attempt.wants_learning |= template.is_skeleton or template.kind == "prompt"
        return is_right is True or (is_right is None and instance.is_ok)

    async def _coarse(self, attempt: _Attempt, distilled: Distilled, fill: Instantiator) -> None:
        template, failed = coarse_template(distilled.category), None
        attempt.wants_learning = True
        for number in range(self._config.attempts):
            seed = seed_of(attempt.problem.id, self.name, "coarse", number)
            instance = await fill.fill(template, distilled, attempt.said, seed=seed, failed=failed)
            is_right = self._judge(attempt.problem, instance)
            attempt.take(instance, is_right, "coarse", "", None)
            if is_right or (is_right is None and instance.is_ok):
                return
            failed = instance

    async def _learn(
        self, attempt: _Attempt, distilled: Distilled, fill: Instantiator, account: Account
    ) -> None:
        """Add what solved the problem, if it is news; or join it with a narrower template."""
        instance = attempt.instance
        example = Example(attempt.said, instance.source or instance.reply, instance.text)
        is_program = bool(instance.source)
        if is_program and await self._widened(example, distilled, fill):
            attempt.decision = Decision(True, "widened")
            return
        distiller = Metered(self._roles.of("distiller"), account, "distiller")
        uses_model = self._config.distiller == "model"
        made = await distill_solution(
            example,
            distilled,
            is_program=is_program,
            model=distiller if uses_model else None,
            sampling=self._sampling,
        )
        if made is None:
            attempt.decision = Decision(False, "not_python")
            return
        evidence = Evidence(True, await self._reproduces(made, fill))
        made = replace(made, stats=Stats(success=1))
        new_below = self._config.new_below

        def rule(new: ThoughtTemplate, alike: Sequence[Match]) -> Decision:
            rivals = [match for match in alike if not self._is_sketch_of(match, new)]
            return decide(new, rivals, evidence, new_below=new_below)

        attempt.decision = await self.buffer.add(made, rule)

    def _is_sketch_of(self, match: Match, new: ThoughtTemplate) -> bool:
        """A sketch does not make the whole program, that it led to, old news."""
        is_whole = new.kind == "code" and not new.is_skeleton
        return is_whole and not _runs_alone(self.buffer.get(match.id))

    def _cheap_first(self, matches: list[Match]) -> list[Match]:
        """A little likeness is worth giving up for a program that needs no model."""
        alone = {m.id: RUNS_ALONE * _runs_alone(self.buffer.get(m.id)) for m in matches}
        return sorted(matches, key=lambda m: -(m.score + alone[m.id]))

    async def _widened(self, example: Example, distilled: Distilled, fill: Instantiator) -> bool:
        """Replace a like template of one program by what it and this program have in common."""
        for match in await self.buffer.nearest(distilled.query):
            if match.similarity < self._config.new_below:
                continue
            narrow = self.buffer.get(match.id)
            known = [e for e in examples_of(narrow) if e.text != example.text]
            wider = antiunify([*known, example]) if known else None
            if wider is None or (wider.body, wider.slots) == (narrow.body, narrow.slots):
                continue
            if await self._reproduces(wider, fill):
                stats = Stats(success=len(known) + 1)
                await self.buffer.replace(narrow.id, replace(wider, stats=stats))
                return True
        return False

    async def _reproduces(self, template: ThoughtTemplate, fill: Instantiator) -> bool:
        """Whether whole code, filled by rules, gives each test's output again. No model call: a
        template that would need one is taken at its word."""
        if template.kind != "code" or any(s.how in (ASKED, CHOSEN) for s in template.slots):
            return True
        for test in template.tests:
            again = await fill.fill(template, extract(test["text"]), test["text"])
            if again.text != test["output"]:
                return False
        return True

    def _judge(self, problem: Problem, instance: Instance) -> bool | None:
        return self._verify(problem, instance.text) if instance.is_ok else False

    async def _distilled(self, attempt: _Attempt, account: Account) -> Distilled:
        if self._config.distiller == "rules":
            return extract(attempt.said)
        model = Metered(self._roles.of("distiller"), account, "distiller")
        seed = seed_of(attempt.problem.id, self.name, "distill")
        return await distill(attempt.said, model, replace(self._sampling, seed=seed))

    @property
    def _sampling(self) -> SamplingParams:
        return SamplingParams(self._config.max_new_tokens, temperature=self._config.temperature)

    def _instantiator(self, account: Account) -> Instantiator:
        solver = Metered(self._roles.of("solver"), account, "solver")
        config = self._config
        return Instantiator(
            solver, self._one_sandbox, self._sampling, config.limits, config.packages
        )

    def _one_sandbox(self) -> Sandbox:
        self._made = self._made or self._sandbox()
        return self._made

    async def _plant(self) -> None:
        """Seeds, once, into a buffer that has nothing."""
        self._seeding = self._seeding or asyncio.Lock()
        async with self._seeding:
            if self._config.seeds != "none" and not self.buffer.all(retired=True):
                for template in seed_templates(self._config.seeds):
                    await self.buffer.add(template)


def _runs_alone(template: ThoughtTemplate) -> bool:
    return template.kind == "code" and not template.is_skeleton


@dataclass(slots=True)
class _Attempt:
    """What has been found for one problem so far."""

    problem: Problem
    said: str
    text: str = ""
    is_right: bool | None = None
    reason: str = "coarse"
    template: str = ""
    similarity: float | None = None
    used_similarity: float | None = None
    wants_learning: bool = False
    instance: Instance = field(default_factory=lambda: Instance("", fault="nothing was tried"))
    decision: Decision | None = None
    tried: int = 0

    def take(
        self,
        instance: Instance,
        is_right: bool | None,
        reason: str,
        template: str,
        similarity: float | None,
    ) -> None:
        """A later attempt replaces an earlier one unless it has no answer and that one has."""
        self.tried += 1
        if instance.is_ok or not self.text:
            self.text, self.instance, self.is_right = instance.text, instance, is_right
            self.reason, self.template, self.used_similarity = reason, template, similarity

    def solution(self, reason: str) -> Solution:
        decision = {"kept": self.decision.keep, "why": self.decision.why} if self.decision else None
        details: Mapping[str, Any] = {
            "template": self.template,
            "similarity": self.used_similarity,
            "nearest": self.similarity,
            "tried": self.tried,
            "decision": decision,
            "source": self.instance.source,
        }
        return Solution(self.text, reason, details)


def embedder_of(config: ThoughtConfig) -> Embedder:
    """The endpoint that the settings name, its key from OPENAI_API_KEY; else MiniLM."""
    if config.embed_url:
        key = os.environ.get("OPENAI_API_KEY")
        return EmbeddingEndpoint(config.embed_url, config.embed_model, key)
    return MiniLM()


def make_thought_buffer(
    roles: Roles, sandbox: Callable[[], Sandbox], settings: Mapping[str, Any]
) -> ThoughtBuffer:
    return ThoughtBuffer(roles, sandbox, from_mapping(ThoughtConfig, settings))
