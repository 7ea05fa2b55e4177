"""Supervised updates: 16 examples a step, of lengths as skewed as people's data.

run(...)              tokens a second of an update with an adapter on every linear layer
samples(count, ...)   the examples; `benches/sft_peers.py` gives others the same ones

Prompts and answers are log-normal: half of the prompts have up to 40 tokens, half of the answers up
to 100, a tenth of them more than 280.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import asdict, replace
from typing import Any, Literal

from evolute.bench.replay import peak_rss_mb
from evolute.bench.result import BenchResult, summarize
from evolute.engine import EngineConfig
from evolute.models import LoadedModel, load_model
from evolute.train import make_policy
from evolute.train.sft import SftConfig, SftTrainer
from evolute.types import ConfigError, TrainingSample

Precision = Literal["float32", "mixed", "bfloat16"]
BATCH = 16
PROMPT, ANSWER = (40, 0.6, 8, 256), (100, 0.8, 8, 512)  # median, sigma, least, most tokens


def run(
    quick: bool,
    *,
    model: str | LoadedModel = "smollm2-135m",
    config: EngineConfig | None = None,
    precision: Precision = "float32",
    repeats: int = 3,
) -> BenchResult:
    """The first update is thrown away; `quick` has a quarter of the examples. Raises ConfigError
    for settings of the engine, which takes no part."""
    if config not in (None, EngineConfig()):
        raise ConfigError("bench sft runs no engine; drop --set.")
    loaded = load_model(model) if isinstance(model, str) else model
    settings = SftConfig(model=loaded.name, batch_size=BATCH // (4 if quick else 1))
    settings = replace(settings, precision=precision)
    trainer = SftTrainer(make_policy(loaded, settings), settings, repeats + 1)
    rounds = []
    for step in range(repeats + 1):
        rows = samples(settings.batch_size, loaded.config.vocab_size, seed=step)
        started = time.perf_counter()
        report = trainer.update(rows)
        seconds = time.perf_counter() - started
        tokens = sum(len(s.prompt_ids) + len(s.response_ids) for s in rows)
        rounds.append(
            {
                "update_s": seconds,
                "tokens_per_s": tokens / seconds,
                "trained_tokens_per_s": report.num_tokens / seconds,
                "tokens": float(tokens),
                "loss": report.metrics["loss"],
                "peak_rss_mb": peak_rss_mb(),
            }
        )
    median, spread = summarize(rounds[1:])
    chosen: dict[str, Any] = {"train": asdict(settings)}
    return BenchResult("sft", chosen, median, repeats, spread)


def samples(count: int, vocab_size: int, seed: int) -> list[TrainingSample]:
    """Random tokens of random lengths, the same for the same arguments."""
    dice = random.Random(f"sft/{seed}")

    def ids(median: int, sigma: float, least: int, most: int) -> tuple[int, ...]:
        length = round(dice.lognormvariate(math.log(median), sigma))
        length = min(max(length, least), most)
        return tuple(dice.randrange(16, vocab_size) for _ in range(length))

    found = []
    for _ in range(count):
        prompt, answer = ids(*PROMPT), ids(*ANSWER)
        trained, zeros = (True,) * len(answer), (0.0,) * len(answer)
        found.append(TrainingSample(prompt, answer, trained, zeros))
    return found
