"""One RL update: 8 problems x 8 rollouts x 64 new tokens, sampled, trained on and published.

Every other rollout of a group is called right, so that all tokens are trained whatever the model
says; the work is that of a real step, the learning is not.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import asdict
from typing import Any, Literal

from evolute.bench.replay import peak_rss_mb
from evolute.bench.result import BenchResult, digest_of, one_digest, summarize
from evolute.engine import Engine, EngineConfig
from evolute.models import LoadedModel, load_model
from evolute.train import Policy, TrainConfig, Trainer, make_policy, publish
from evolute.types import Outcome, Output, Rollout, SamplingParams, TrainingSample

Precision = Literal["float32", "mixed", "bfloat16"]
ADAPTER = "bench"
NUM_PROMPTS, NUM_SAMPLES, PROMPT_TOKENS, NEW_TOKENS = 8, 8, 32, 64


def run(
    quick: bool,
    *,
    model: str | LoadedModel = "smollm2-135m",
    config: EngineConfig | None = None,
    precision: Precision = "float32",
    repeats: int = 3,
) -> BenchResult:
    """Seconds of the rollouts, of the update and of its publication; the first round is thrown away
    unless `quick`, which does a quarter of the prompts and of the samples."""
    loaded = load_model(model) if isinstance(model, str) else model
    shrink = 4 if quick else 1
    settings = TrainConfig(
        model=loaded.name,
        prompts_per_step=NUM_PROMPTS // shrink,
        samples_per_prompt=NUM_SAMPLES // shrink,
        max_new_tokens=NEW_TOKENS,
        precision=precision,
    )
    policy = make_policy(loaded, settings)
    trainer = Trainer(policy, settings)
    rounds, digests = [], []
    with Engine(loaded, config or EngineConfig()) as engine:
        _publish(engine, policy, 0)
        for version in range(1, 2 if quick else repeats + 2):
            engine.flush_cache()
            figures, digest = _round(engine, policy, trainer, settings, version)
            rounds.append(figures)
            digests.append(digest)
        chosen: dict[str, Any] = {"train": asdict(settings), "engine": asdict(engine.config)}
    kept = rounds if quick else rounds[1:]
    median, spread = summarize(kept)
    return BenchResult("training", chosen, median, len(kept), spread, one_digest(digests))


# -- internals ---------------------------------------------------------------


def _round(
    engine: Engine, policy: Policy, trainer: Trainer, settings: TrainConfig, version: int
) -> tuple[dict[str, float], str]:
    dice = random.Random(settings.seed)
    prompts = [
        [dice.randrange(16, engine.tokenizer.vocab_size) for _ in range(PROMPT_TOKENS)]
        for _ in range(settings.prompts_per_step)
    ]
    sampling = SamplingParams(
        max_new_tokens=NEW_TOKENS, n=settings.samples_per_prompt, seed=0, ignore_eos=True
    )
    started = time.perf_counter()
    outputs = engine.generate(prompts, sampling, adapter=ADAPTER)
    rolled = time.perf_counter()
    rollouts = [
        _rollout(prompts[i // sampling.n], output, i // sampling.n, i % sampling.n)
        for i, output in enumerate(outputs)
    ]
    report = trainer.update(rollouts)
    updated = time.perf_counter()
    _publish(engine, policy, version)
    ended = time.perf_counter()
    figures = {
        "seconds": ended - started,
        "rollout_s": rolled - started,
        "update_s": updated - rolled,
        "publish_s": ended - updated,
        "trained_tokens": float(report.num_tokens),
        "trained_tokens_per_s": report.num_tokens / (updated - rolled),
        "logprob_abs_diff_mean": report.metrics["logprob_abs_diff_mean"],
        "mismatch_kl": report.metrics["mismatch_kl"],
        "peak_rss_mb": peak_rss_mb(),
    }
    return figures, digest_of([(str(i), o.token_ids) for i, o in enumerate(outputs)])


def _publish(engine: Engine, policy: Policy, version: int) -> None:
    canary = tuple(range(16, 48))
    asyncio.run(publish(engine, ADAPTER, policy, version, canary))


def _rollout(prompt: list[int], output: Output, group: int, index: int) -> Rollout:
    num_tokens = len(output.token_ids)
    sample = TrainingSample(tuple(prompt), output.token_ids, (True,) * num_tokens, output.logprobs)
    reward = float(index % 2)
    return Rollout(f"bench-{group}", group, index, reward, Outcome.TRUNCATED, (sample,))
