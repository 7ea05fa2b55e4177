"""Do agents learn to use their tools? Held-out accuracy before and after, on several seeds.

    python benches/learning_agents.py memory --seeds 3
    python benches/learning_agents.py sql --train-turns 1 5 --turns 1 3 5

A pupil is taught once by imperfect lessons (`evolute.bench.pupils`), then each seed trains it by
the recipe `recipes/agents/learn-WORLD.toml`, as `evolute train rl` does. Held-out problems are the
same for all seeds and share none with training; an answer is sampled at temperature 1, as in
training, and once more greedily. The interval of a difference is of paired accuracies. Stopped, the
same command goes on. Each finished seed is a line of RUN_DIR/WORLD/results.jsonl; one JSON object
comes out at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from evolute.bench import BenchResult
from evolute.bench.pupils import WORLDS, Sizes, evaluated, figures, learn, taught
from evolute.envs import mean_interval
from evolute.telemetry import RecordWriter, read_records
from evolute.train import TrainConfig
from evolute.types.settings import load

RECIPES = Path(__file__).resolve().parents[1] / "recipes" / "agents"
TEMPERATURES = {"sampled": 1.0, "greedy": 0.0}


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    recipe = options.recipe or RECIPES / f"learn-{options.world}.toml"
    train = load(TrainConfig, files=[recipe], overrides=options.set)
    place = options.run_dir / options.world
    sizes = Sizes(lessons=options.lessons, exercises=options.exercises, epochs=options.epochs)
    pupil = taught(
        place / "pupil", WORLDS[options.world], train, sizes, options.pupil, _say("lessons")
    )
    for turns in options.train_turns or [train.agent.max_turns]:
        agent = dataclasses.replace(train.agent, max_turns=turns)
        for seed in range(options.first, options.first + options.seeds):
            config = dataclasses.replace(train, agent=agent, seed=seed)
            asyncio.run(_seed(place, pupil, config, options))
    found = read_records(place / "results.jsonl")
    named = BenchResult("learning_agents", dataclasses.asdict(train), {}, len(found), {})
    print(json.dumps({"machine": named.machine, "commit": named.commit, "config": named.config,
                      "gains": _over_seeds(found), "runs": found}))  # fmt: skip


async def _seed(place: Path, pupil: Path, train: TrainConfig, options: Any) -> None:
    """One seed, unless its line is there already."""
    trained_at, results = train.agent.max_turns, place / "results.jsonl"
    key = {"world": options.world, "seed": train.seed, "train_turns": trained_at}
    if any(key.items() <= record.items() for record in read_records(results)):
        return
    folder = place / f"turns-{trained_at}" / f"seed-{train.seed}"
    before = await _evaluate(place / "pupil", pupil, train, options)
    started = time.perf_counter()
    model = await learn(folder / "rl", pupil, train, _say(f"seed {train.seed}"))
    record: dict[str, Any] = {**key, "training_s": time.perf_counter() - started}
    for name, (right, means) in (await _evaluate(folder, model, train, options)).items():
        base, was = before[name]
        record[name] = figures(base, right) | {"was": was, "is": means}
    steps = [r for r in read_records(folder / "rl" / "metrics.jsonl") if "update_s" in r]
    record["accuracy_by_step"] = [round(s["accuracy_mean"], 3) for s in steps]
    record["logprob_abs_diff_mean_max"] = max(s["logprob_abs_diff_mean"] for s in steps)
    with RecordWriter(results) as writer:
        writer.write(record)
    short = {k: v if not isinstance(v, dict) else v["gain"] for k, v in record.items()}
    print(json.dumps(short), file=sys.stderr, flush=True)


async def _evaluate(folder: Path, model: Path, train: TrainConfig, options: Any) -> dict[str, Any]:
    """Right or wrong and means, by way and turns; greedily at the turns of training alone."""
    found: dict[str, Any] = {}
    for turns in options.turns or [train.agent.max_turns]:
        for name, temperature in TEMPERATURES.items():
            if name == "sampled" or turns == train.agent.max_turns:
                place = folder / f"at-{turns}-{name}"
                found[f"{name}/{turns}"] = await evaluated(
                    place, model, train, options.count, turns=turns, temperature=temperature
                )
    return found


def _over_seeds(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Over the seeds, by turns of training, and way and turns of evaluation."""
    gains: dict[str, list[float]] = {}
    for record in found:
        for name, value in record.items():
            if isinstance(value, dict):
                key = f"trained at {record['train_turns']}: {name}"
                gains.setdefault(key, []).append(value["gain"]["mean"])
    return {
        name: dataclasses.asdict(mean_interval(each)) if len(each) > 1 else {"mean": each[0]}
        for name, each in gains.items()
    }


def _say(who: str) -> Any:
    def say(report: Any) -> None:
        shown = {k: report.metrics[k] for k in ("accuracy_mean", "loss") if k in report.metrics}
        text = " ".join(f"{name} {value:.3f}" for name, value in shown.items())
        print(f"{who} step {report.step + 1} {text}", file=sys.stderr, flush=True)

    return say


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("world", choices=sorted(WORLDS))
    parser.add_argument("--recipe", type=Path, help="default: recipes/agents/learn-WORLD.toml")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/pupils"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--pupil", type=int, default=0, help="seed of the pupil")
    parser.add_argument("--lessons", type=int, default=3000)
    parser.add_argument("--exercises", type=int, default=9000, help="in worlds that have some")
    parser.add_argument("--epochs", type=int, default=1, help="passes over both")
    parser.add_argument("--count", type=int, default=200, help="held-out problems")
    parser.add_argument("--train-turns", type=int, nargs="*", help="default: the recipe's")
    parser.add_argument("--turns", type=int, nargs="*", help="of evaluation; default: training's")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of the recipe")
    return parser.parse_args()


if __name__ == "__main__":
    main()
