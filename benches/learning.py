"""Does a recipe learn? Held-out accuracy before and after training, on several seeds.

    python benches/learning.py                                   the default task, 3 seeds
    python benches/learning.py recipes/chain-sum.toml --seeds 3

Held-out problems are the same for all seeds and share none with training; answers are greedy. The
interval of a difference is of paired accuracies. Training's seconds leave evaluation out. One JSON
object comes out.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from evolute.bench import BenchResult
from evolute.engine import Engine, EngineConfig
from evolute.envs import evaluate, make_task, paired_difference
from evolute.models import load_model
from evolute.telemetry import read_records
from evolute.train import Controller, StepReport, TrainConfig
from evolute.types.settings import load


def main() -> None:
    options = _options()
    base = load(TrainConfig, files=[options.recipe]) if options.recipe else TrainConfig()
    model = load_model(base.model)
    runs = []
    config = EngineConfig(precision=options.precision, page_size=4)
    for seed in range(options.first, options.first + options.seeds):
        with Engine(model, config) as engine, tempfile.TemporaryDirectory() as folder:
            train = dataclasses.replace(base, seed=seed)
            controller = Controller(train, Path(folder), model, engine)
            runs.append(asyncio.run(_run(controller, engine, options.count)))
    gains = [run["gain"]["mean"] for run in runs]
    named = BenchResult("learning", dataclasses.asdict(base), {}, len(runs), {})
    print(json.dumps({"machine": named.machine, "commit": named.commit, "config": named.config,
                      "n": len(runs), "mean_gain": sum(gains) / len(gains),
                      "runs": runs}))  # fmt: skip


async def _run(controller: Controller, engine: Engine, count: int) -> dict[str, Any]:
    train, task = controller.config, make_task(controller.config.task)
    before = await evaluate(task, engine, count=count)
    started = time.perf_counter()
    await controller.run(lambda report: _say(train, report))
    seconds = time.perf_counter() - started
    after = await evaluate(task, engine, count=count, adapter=controller.adapter)
    gain = paired_difference(before.correct_by_problem, after.correct_by_problem)
    steps = [r for r in read_records(controller.run_dir / "metrics.jsonl") if "update_s" in r]
    found = {
        "seed": train.seed,
        "base": before.interval.mean,
        "trained": after.interval.mean,
        "gain": dataclasses.asdict(gain),
        "training_s": seconds,
        "logprob_abs_diff_mean_max": max(s["logprob_abs_diff_mean"] for s in steps),
        "mismatch_kl_max": max(s["mismatch_kl"] for s in steps),
        "accuracy_by_step": [round(s["accuracy_mean"], 3) for s in steps],
    }
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def _say(train: TrainConfig, report: StepReport) -> None:
    accuracy = report.metrics["accuracy_mean"]
    text = f"seed {train.seed} step {report.step + 1}/{train.steps} accuracy {accuracy:.2f}"
    print(text, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", nargs="?", type=Path, help="a TOML file; default: the defaults")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=128, help="held-out problems")
    parser.add_argument("--precision", default="float32", choices=["float32", "quantized"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
