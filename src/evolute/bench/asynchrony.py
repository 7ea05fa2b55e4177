"""What does it gain to train while rollouts go on? The schedules beside each other, in real time.

Agents of three turns on a live engine, whose tools wait rather than compute: log-normal times with
a heavy tail, the same for each schedule (they follow from problem, index and turn). The world pays
for tokens with even numbers, which any model learns in a few steps, so that the reward at the end
can be compared too. Updates are real.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from evolute.bench.result import BenchResult, summarize
from evolute.engine import Engine, EngineConfig
from evolute.models import LoadedModel, load_model
from evolute.train import Controller, OptimizerConfig, TrainConfig
from evolute.train.algorithms import OffPolicyConfig
from evolute.train.settings import AlgorithmConfig, AsynchronyConfig
from evolute.types import (
    Backend,
    GenerateRequest,
    Outcome,
    Output,
    Problem,
    Rollout,
    SamplingParams,
    TrainingSample,
    VersionSegment,
)

Schedule = Literal["synchronous", "one_step_off", "asynchronous"]
SCHEDULES: tuple[Schedule, ...] = ("synchronous", "one_step_off", "asynchronous")
TURNS, NEW_TOKENS = 3, 8
TOOL_MEAN_S, TOOL_SIGMA, TOOL_MOST_S = 0.4, 1.2, 6.0
STALENESS = 2
LAST = 4  # steps whose mean is the final reward


def run(
    quick: bool,
    *,
    model: str | LoadedModel = "tiny",
    config: EngineConfig | None = None,
    repeats: int = 3,
) -> BenchResult:
    """Steps a second and final reward of each schedule, and their ratios to the synchronous one.
    `quick` is one round of fewer steps."""
    loaded = load_model(model) if isinstance(model, str) else model
    settings = TrainConfig(
        model=loaded.name,
        task="addition-1",
        steps=20 if quick else 40,
        prompts_per_step=4,
        samples_per_prompt=4,
        checkpoint_every=1000,
        algorithm=AlgorithmConfig(off_policy=OffPolicyConfig(truncate=2.0)),
        optimizer=OptimizerConfig(lr=1e-2, decay="constant"),
    )
    rounds = []
    for number in range(1 if quick else repeats):
        figures: dict[str, float] = {}
        for schedule in SCHEDULES[:: 1 if number % 2 == 0 else -1]:
            figures |= _measure(loaded, config, _with(settings, schedule, number))
        for schedule in SCHEDULES[1:]:
            fast, slow = figures[f"{schedule}_s"], figures["synchronous_s"]
            figures[f"{schedule}_speedup"] = slow / fast
        rounds.append(figures)
    median, spread = summarize(rounds)
    chosen: dict[str, Any] = {"train": asdict(settings), "turns": TURNS}
    chosen["tool_s"] = {"mean": TOOL_MEAN_S, "sigma": TOOL_SIGMA, "most": TOOL_MOST_S}
    return BenchResult("asynchrony", chosen, median, len(rounds), spread)


@dataclass(frozen=True, slots=True)
class WaitingPlayer:
    """TURNS answers, with a tool's waiting and one token of observation between them."""

    backend: Backend
    adapter: str | None
    temperature: float = 1.0

    async def play(self, problem: Problem, *, group: int, index: int, seed: int) -> Rollout:
        prompt = tuple(self.backend.tokenizer.chat(problem.messages))
        ids: list[int] = []
        mask: list[bool] = []
        logprobs: list[float] = []
        versions: list[VersionSegment] = []
        for turn in range(TURNS):
            output = await self._ask(
                (*prompt, *ids), hash_of(f"{seed}/{problem.id}/{index}/{turn}")
            )
            ids += output.token_ids
            mask += [True] * len(output.token_ids)
            logprobs += output.logprobs
            versions += output.weight_versions
            if turn + 1 < TURNS:
                await asyncio.sleep(tool_s(problem.id, index, turn))
                ids, mask, logprobs = [*ids, 17], [*mask, False], [*logprobs, 0.0]
        sampled = [token for token, is_sampled in zip(ids, mask) if is_sampled]
        reward = statistics.fmean(token % 2 == 0 for token in sampled)
        sample = TrainingSample(prompt, tuple(ids), tuple(mask), tuple(logprobs), tuple(versions))
        return Rollout(problem.id, group, index, reward, Outcome.DONE, (sample,))

    async def _ask(self, prompt: tuple[int, ...], seed: int) -> Output:
        sampling = SamplingParams(
            max_new_tokens=NEW_TOKENS, temperature=self.temperature, ignore_eos=True, seed=seed
        )
        request = GenerateRequest(prompt, sampling, self.adapter, tenant="rollouts")
        (output,) = await self.backend.agenerate(request)
        return output


def tool_s(problem: str, index: int, turn: int) -> float:
    """Seconds that the tool of this turn waits."""
    source = random.Random(f"{problem}/{index}/{turn}")
    middle = math.log(TOOL_MEAN_S) - TOOL_SIGMA**2 / 2
    return min(source.lognormvariate(middle, TOOL_SIGMA), TOOL_MOST_S)


def hash_of(text: str) -> int:
    return random.Random(text).getrandbits(48)


# -- internals ---------------------------------------------------------------


def _with(settings: TrainConfig, schedule: Schedule, seed: int) -> TrainConfig:
    chosen = AsynchronyConfig()
    if schedule == "asynchronous":
        chosen = AsynchronyConfig(max_staleness=STALENESS, look_s=0.05)
    return replace(settings, schedule=schedule, asynchrony=chosen, seed=seed)


def _measure(
    model: LoadedModel, config: EngineConfig | None, settings: TrainConfig
) -> dict[str, float]:
    """One run: seconds a step, reward at the end, staleness."""
    with tempfile.TemporaryDirectory() as folder, Engine(model, config) as engine:
        place = Path(folder)
        player = WaitingPlayer(engine, "policy")
        controller = Controller(settings, place, model, engine, players=[player])
        started = time.perf_counter()
        asyncio.run(controller.run())
        seconds = time.perf_counter() - started
        records = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    name = settings.schedule
    return {
        f"{name}_s": seconds / settings.steps,
        f"{name}_reward_first": records[0]["reward_mean"],
        f"{name}_reward": statistics.fmean(r["reward_mean"] for r in records[-LAST:]),
        f"{name}_wait_s": statistics.fmean(r["rollout_s"] for r in records),
        f"{name}_update_s": statistics.fmean(r["update_s"] for r in records),
        f"{name}_staleness": statistics.fmean(r.get("staleness_mean", 0.0) for r in records),
    }
