"""Who proposes: chance, a Bayesian search, the served model itself, or a script.

A proposer sees the space and the trials so far; it never sees the judge. Its change is made on top
of the best settings so far. The same history gives the same proposal, so that a killed search goes
on where it was, and settings that were tried are not proposed again while there are others.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from evolute.envs.tuning import Change, Space
from evolute.evolve.history import best, points
from evolute.evolve.ledger import Trial
from evolute.types import Backend, GenerateRequest, Message, SamplingParams

OPENING = 4  # random moves before the estimator has something to estimate from
ATTEMPTS = 32  # draws until one was not tried before
MODEL_ATTEMPTS = 4
MODEL_TOKENS = 1024  # enough for an answer of single bytes, white space included

logger = logging.getLogger(__name__)


class Proposer(Protocol):
    """Gives the next change to try."""

    name: str

    async def propose(self, space: Space, history: Sequence[Trial]) -> Change: ...


class RandomProposer:
    """Chance, spread evenly. Until something is kept, and in every other trial after that, whole
    settings of the values that had the fewest turns; else moves from the best, each dimension in
    turn. So a short search leaves nothing out and finds what helps only together."""

    name = "random"

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    async def propose(self, space: Space, history: Sequence[Trial]) -> Change:
        return _random(space, history, self._seed)


class ScriptedProposer:
    """A fixed list of changes; for plants and for people who know what they want to try."""

    name = "scripted"

    def __init__(self, changes: Iterable[Change]) -> None:
        self._changes = list(changes)

    async def propose(self, space: Space, history: Sequence[Trial]) -> Change:
        return self._changes.pop(0) if self._changes else {}


class OptunaProposer:
    """Tree-structured Parzen estimator (Optuna). It is told the whole settings of every trial and
    their speed over the baseline; its first proposals are random moves."""

    name = "optuna"

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    async def propose(self, space: Space, history: Sequence[Trial]) -> Change:
        told = [(space.settings(p.change), p.speed) for p in points(history)]
        whole = [(s, speed) for s, speed in told if len(s) == len(space.dimensions)]
        if len(whole) <= OPENING:
            return _random(space, history, self._seed)
        for attempt in range(ATTEMPTS):
            drawn = _ask(space, whole, self._seed + len(history) + 7919 * attempt)
            if drawn not in [settings for settings, _ in told]:
                return _news(space, history, drawn)
        return _random(space, history, self._seed)


class ModelProposer:
    """The served model proposes, under a JSON grammar that admits nothing but valid changes, of
    the values that had the fewest turns."""

    name = "model"

    def __init__(self, backend: Backend, adapter: str | None = None, seed: int = 0) -> None:
        self._backend, self._adapter, self._seed = backend, adapter, seed

    async def propose(self, space: Space, history: Sequence[Trial]) -> Change:
        schema = space.open(_tried(space, history)).json_schema()
        for attempt in range(MODEL_ATTEMPTS):
            text = await self._answer(space, history, schema, attempt)
            try:
                change = _news(space, history, space.check(json.loads(text)))
            except ValueError:  # cut short
                continue
            if _is_new(space, history, change):
                return change
        logger.warning("the model had no new proposal in %d attempts; chance has", MODEL_ATTEMPTS)
        return _random(space, history, self._seed)

    async def _answer(
        self, space: Space, history: Sequence[Trial], schema: str, attempt: int
    ) -> str:
        sampling = SamplingParams(
            max_new_tokens=MODEL_TOKENS,
            temperature=1.0,
            seed=self._seed + len(history) + 7919 * attempt,
            json_schema=schema,
        )
        question: Message = {"role": "user", "content": _question(space, history)}
        prompt = tuple(self._backend.tokenizer.chat([question]))
        request = GenerateRequest(prompt, sampling, self._adapter, tenant="tuner")
        (output,) = await self._backend.agenerate(request)
        return output.text


# -- internals ---------------------------------------------------------------


def _random(space: Space, history: Sequence[Trial], seed: int) -> Change:
    if best(history)[0] and len(history) % 2 == 0:
        return _random_move(space, history, seed)
    source, tried = random.Random(f"{seed}/{len(history)}"), _tried(space, history)
    for _ in range(ATTEMPTS):
        drawn = space.open(tried).draw(source)
        if drawn not in tried:
            return _news(space, history, drawn)
    return _random_move(space, history, seed)


def _random_move(space: Space, history: Sequence[Trial], seed: int) -> Change:
    order = list(range(len(space.dimensions)))
    random.Random(seed).shuffle(order)
    source, (kept, _) = random.Random(f"{seed}/{len(history)}"), best(history)
    change: Change = {}
    for attempt in range(ATTEMPTS):
        number = max(len(history) - 1, 0) + attempt
        change = space.move(source, kept, order[number % len(order)])
        if _is_new(space, history, change):
            break
    return change


def _is_new(space: Space, history: Sequence[Trial], change: Change) -> bool:
    merged = space.settings({**best(history)[0], **change})
    return merged not in _tried(space, history)


def _tried(space: Space, history: Sequence[Trial]) -> list[Change]:
    """The whole settings of every trial."""
    return [space.settings(point.change) for point in points(history)]


def _news(space: Space, history: Sequence[Trial], settings: Change) -> Change:
    """What of `settings` is not in force already."""
    now = space.settings(best(history)[0])
    return {name: value for name, value in settings.items() if now.get(name) != value}


def _ask(space: Space, told: Sequence[tuple[Change, float]], seed: int) -> Change:
    """What the estimator draws after what it was told."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=OPENING)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    distributions: dict[str, Any] = {
        d.name: optuna.distributions.CategoricalDistribution(d.choices) for d in space.dimensions
    }
    for settings, speed in told:
        study.add_trial(
            optuna.trial.create_trial(
                params={name: settings[name] for name in distributions},
                distributions=distributions,
                value=speed,
            )
        )
    return dict(study.ask(distributions).params)


def _question(space: Space, history: Sequence[Trial]) -> str:
    lines = [f"- {d.name}: one of {list(d.choices)}" for d in space.dimensions]
    tried = [
        f"- {json.dumps(dict(t.change))}: {t.verdict}, {t.why}" for t in history[-5:] if t.change
    ]
    return (
        "A language-model server is slow. Choose settings that make it faster.\nSettings:\n"
        + "\n".join(lines)
        + f"\nIn force: {json.dumps(dict(space.settings(best(history)[0])))}"
        + "\nTried so far:\n"
        + ("\n".join(tried) or "- nothing")
        + "\nAnswer with one JSON object."
    )
