"""Who proposes: chance, a Bayesian search, the served model itself, or a script.

A proposer sees the space and the trials so far; it never sees the judge.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from evolute.envs.tuning import Change, Space
from evolute.evolve.ledger import Trial
from evolute.types import Backend, GenerateRequest, SamplingParams


class Proposer(Protocol):
    """Gives the next change to try."""

    name: str

    async def propose(self, space: Space, history: Sequence[Trial]) -> Change: ...


class RandomProposer:
    """Uniform over the space."""

    name = "random"

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    async def propose(self, space: Space, history: Sequence[Trial]) -> Change:
        # by the number of the trial, so that a resumed search goes on where it was
        return space.sample(random.Random(f"{self._seed}/{len(history)}"))


class ScriptedProposer:
    """A fixed list of changes; for plants and for people who know what they want to try."""

    name = "scripted"

    def __init__(self, changes: Iterable[Change]) -> None:
        self._changes = list(changes)

    async def propose(self, space: Space, history: Sequence[Trial]) -> Change:
        return self._changes.pop(0) if self._changes else {}


class OptunaProposer:
    """Tree-structured Parzen estimator (Optuna), told every judged trial."""

    name = "optuna"

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    async def propose(self, space: Space, history: Sequence[Trial]) -> Change:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=self._seed + len(history), n_startup_trials=4)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        distributions: dict[str, Any] = {
            d.name: optuna.distributions.CategoricalDistribution(d.choices)
            for d in space.dimensions
        }
        for trial in history:
            if set(trial.change) == set(distributions):
                value = trial.ratio.mean if trial.ratio else 0.0
                study.add_trial(
                    optuna.trial.create_trial(
                        params=dict(trial.change), distributions=distributions, value=value
                    )
                )
        return dict(study.ask(distributions).params)


class ModelProposer:
    """The served model proposes, under a JSON grammar that admits nothing but valid changes."""

    name = "model"

    def __init__(self, backend: Backend, adapter: str | None = None, seed: int = 0) -> None:
        self._backend, self._adapter, self._seed = backend, adapter, seed

    async def propose(self, space: Space, history: Sequence[Trial]) -> Change:
        sampling = SamplingParams(
            max_new_tokens=160,
            temperature=1.0,
            seed=self._seed + len(history),
            json_schema=space.json_schema(),
        )
        prompt = self._backend.tokenizer.chat(
            [{"role": "user", "content": _question(space, history)}]
        )
        request = GenerateRequest(tuple(prompt), sampling, self._adapter, tenant="tuner")
        (output,) = await self._backend.agenerate(request)
        try:
            return space.check(json.loads(output.text))
        except ValueError:  # cut short: fall back rather than fail
            return space.sample(random.Random(self._seed + len(history)))


def _question(space: Space, history: Sequence[Trial]) -> str:
    lines = [f"- {d.name}: one of {list(d.choices)}" for d in space.dimensions]
    tried = [
        f"- {json.dumps(dict(t.change))}: {t.verdict}, {t.why}" for t in history[-5:] if t.change
    ]
    return (
        "A language-model server is slow. Choose settings that make it faster.\nSettings:\n"
        + "\n".join(lines)
        + "\nTried so far:\n"
        + ("\n".join(tried) or "- nothing")
        + "\nAnswer with one JSON object."
    )
