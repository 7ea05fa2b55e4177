"""The paths of a run's pages, for `create_app(..., extra_routers=[training_router(run_dir)])`.

    GET /run                                    curves, loaded anew while the run goes on
    GET /run/steps/STEP                         rollouts of a step
    GET /run/steps/STEP/GROUP/INDEX             one, with mask and advantage of each token

They only read. Whoever sees them sees all that the model was asked and said.
"""

from __future__ import annotations

import codecs
import os
import time
import tomllib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from evolute.dashboard.training import pages
from evolute.dashboard.training.advantages import Key, advantages, why_not
from evolute.dashboard.training.entries import Entry, Rollouts
from evolute.dashboard.training.tokens import sample_page
from evolute.models import load_model
from evolute.server.errors import FieldError
from evolute.train.settings import TrainConfig
from evolute.types import ConfigError, Rollout, Tokenizer
from evolute.types.settings import from_mapping

LOCK = ".lock"  # of the run directory: who works in it
GOES_ON_S = 120.0  # a run without one, whose files have not changed for so long, has stopped
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def training_router(run_dir: Path, tokenizer: Tokenizer | None = None) -> APIRouter:
    """Without a tokenizer that of the run's model is loaded when a rollout is first looked at."""
    router, run = APIRouter(include_in_schema=False), _Run(run_dir, tokenizer)

    @router.get("/run")
    def overview() -> HTMLResponse:
        return _answer(
            pages.overview(run_dir, run.rollouts.steps(), is_going_on=_is_going_on(run_dir))
        )

    @router.get("/run/steps/{step}")
    def step_list(step: int) -> HTMLResponse:
        return _answer(run.step(step))

    @router.get("/run/steps/{step}/{group}/{index}")
    def one(step: int, group: int, index: int) -> HTMLResponse:
        return _answer(run.rollout(step, group, index))

    return router


class _Run:
    """What the pages need of a run directory."""

    def __init__(self, run_dir: Path, tokenizer: Tokenizer | None) -> None:
        self._run_dir, self._given = run_dir, tokenizer
        self.rollouts = Rollouts(run_dir / "rollouts.jsonl")

    def step(self, step: int) -> str:
        entries = self._entries(step)
        rollouts = self._read(entries)
        earned, reason = self._earned(rollouts)
        texts = {(r.group, r.index): r.text for r in rollouts}
        first = {key[:2]: values[0] for key, values in earned.items() if values and key[2] == 0}
        return pages.step_page(step, entries, texts, first, self.rollouts.steps(), reason)

    def rollout(self, step: int, group: int, index: int) -> str:
        entries = self._entries(step)
        entry = next((e for e in entries if (e.group, e.index) == (group, index)), None)
        if entry is None:
            raise _missing(f"step {step} has no rollout {index} of group {group}")
        rollouts = self._read(entries)
        earned, reason = self._earned(rollouts)
        (rollout,) = [r for r in rollouts if (r.group, r.index) == (group, index)]
        samples = [
            sample_page(sample, self._pieces, earned.get((group, index, number)))
            for number, sample in enumerate(rollout.samples)
        ]
        siblings = [e for e in entries if e.group == group]
        return pages.rollout_page(entry, rollout, samples, siblings, reason)

    # -- internals ---------------------------------------------------------------

    def _entries(self, step: int) -> list[Entry]:
        if found := self.rollouts.of_step(step):
            return found
        raise _missing(f"no rollouts of step {step} are in the journal")

    def _read(self, entries: Sequence[Entry]) -> list[Rollout]:
        try:
            return [self.rollouts.read(entry) for entry in entries]
        except LookupError as error:
            raise _missing(str(error)) from None

    def _earned(self, rollouts: Sequence[Rollout]) -> tuple[dict[Key, tuple[float, ...]], str]:
        """Advantages, or why there are none to show."""
        try:
            config = self._config
        except (ConfigError, OSError, ValueError) as error:
            return {}, f"the run's settings cannot be read ({error})."
        reason = why_not(config)
        return ({} if reason else advantages(rollouts, config)), reason

    @cached_property
    def _config(self) -> TrainConfig:
        found: dict[str, Any] = tomllib.loads((self._run_dir / "config.toml").read_text())
        return from_mapping(TrainConfig, found.get("train", found))

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return self._given or load_model(self._config.model).tokenizer

    def _pieces(self, ids: Sequence[int]) -> list[str]:
        return pieces(ids, self._tokenizer.token_bytes)


def pieces(ids: Sequence[int], token_bytes: Callable[[int], bytes]) -> list[str]:
    """The text of each token. A character that several tokens spell stands with the last of them,
    so that what is read is what was said."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    last = len(ids) - 1
    return [decoder.decode(token_bytes(token), n == last) for n, token in enumerate(ids)]


def _is_going_on(run_dir: Path) -> bool:
    """The process that holds the run is alive; for one that nobody holds, its files tell."""
    try:
        owner = int((run_dir / LOCK).read_text())
        os.kill(owner, 0)
    except (OSError, ValueError, OverflowError) as error:
        if isinstance(error, PermissionError):  # another user's process
            return True
        if isinstance(error, ProcessLookupError):
            return False
    else:
        return True
    files = [run_dir / name for name in ("metrics.jsonl", "pending.jsonl", "rollouts.jsonl")]
    times = [file.stat().st_mtime for file in files if file.exists()]
    return bool(times) and time.time() - max(times) < GOES_ON_S


def _missing(text: str) -> FieldError:
    return FieldError(f"{text}.", code="not_found", status=404)


def _answer(text: str) -> HTMLResponse:
    return HTMLResponse(text, headers=HEADERS)
