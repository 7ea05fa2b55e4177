"""Does staleness hurt, and does correction help? One task, the same policy, three ways to train it.

    python benches/staleness.py --seeds 3 --steps 60 --lag 4

    fresh        each step trains on rollouts of the present weights
    stale        on rollouts of the weights `lag` updates ago, as if they were fresh
    corrected    the same, with the ratio to the sampler clipped and truncated

The world pays for tokens with even numbers. Prints one JSON: by way and seed, the mean reward of
the last tenth of the steps and of all of them, and the first of three steps with a mean of 0.9,
sampled with the weights that are trained. Each way learns an easy task in the end: what staleness
costs is seen in the steps until then.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import deque
from dataclasses import replace

from evolute.engine import Engine
from evolute.models import LoadedModel, load_model
from evolute.train import OptimizerConfig, TrainConfig, Trainer, make_policy
from evolute.train.algorithms import OffPolicyConfig
from evolute.train.settings import AlgorithmConfig
from evolute.train.sync.publish import load
from evolute.types import Outcome, Rollout, SamplingParams, TrainingSample

PROMPTS, SAMPLES, TOKENS = 4, 8, 12
WAYS = ("fresh", "stale", "corrected")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lag", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1e-2)
    args = parser.parse_args()
    model = load_model("tiny")
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    curves: dict[str, list[float]] = {}
    for seed in range(args.seeds):
        for way in WAYS:
            lag = 0 if way == "fresh" else args.lag
            curve = train(model, _settings(way, args.steps, args.lr, seed), lag)
            found[way].append(statistics.fmean(curve[-max(args.steps // 10, 1) :]))
            curves[f"{way}/{seed}"] = [round(x, 3) for x in curve]
    speed = {key: (statistics.fmean(curve), _first(curve)) for key, curve in curves.items()}
    means = {way: statistics.fmean(values) for way, values in found.items()}
    print(
        json.dumps(
            {"means": means, "by_seed": found, "speed": speed, "curves": curves, **vars(args)}
        )
    )


def _first(curve: list[float], level: float = 0.9) -> int | None:
    """The first of three steps whose mean reaches a level."""
    spans = (i for i in range(len(curve) - 2) if statistics.fmean(curve[i : i + 3]) >= level)
    return next(spans, None)


def train(model: LoadedModel, settings: TrainConfig, lag: int) -> list[float]:
    """The reward of the present policy at each step."""
    policy = make_policy(model, settings)
    trainer = Trainer(policy, settings)
    past = deque([policy.snapshot()] * (lag + 1), maxlen=lag + 1)
    rewards = []
    with Engine(model, page_size=4) as engine:
        for step in range(settings.steps):
            load(engine, "now", past[-1], step)
            rewards.append(
                statistics.fmean(r.reward for r in sample(engine, "now", step, settings))
            )
            load(engine, "old", past[0], step)
            trainer.update(sample(engine, "old", step + 10_000, settings))
            past.append(policy.snapshot())
    return rewards


def sample(engine: Engine, adapter: str, step: int, settings: TrainConfig) -> list[Rollout]:
    """PROMPTS groups of SAMPLES rollouts."""
    prompts = [[20 + group, 30, 40 + group] for group in range(PROMPTS)]
    sampling = SamplingParams(
        max_new_tokens=TOKENS, n=SAMPLES, seed=settings.seed * 100_003 + step, ignore_eos=True
    )
    outputs = engine.generate(prompts, sampling, adapter=adapter)
    rollouts = []
    for number, output in enumerate(outputs):
        group, index = divmod(number, SAMPLES)
        reward = statistics.fmean(token % 2 == 0 for token in output.token_ids)
        mask = (True,) * len(output.token_ids)
        one = TrainingSample(tuple(prompts[group]), output.token_ids, mask, output.logprobs)
        rollouts.append(Rollout(str(group), group, index, reward, Outcome.DONE, (one,)))
    return rollouts


def _settings(way: str, steps: int, lr: float, seed: int) -> TrainConfig:
    base = TrainConfig(
        model="tiny",
        steps=steps,
        prompts_per_step=PROMPTS,
        samples_per_prompt=SAMPLES,
        seed=seed,
        optimizer=OptimizerConfig(lr=lr, decay="constant"),
    )
    if way != "corrected":
        return base
    bounds = OffPolicyConfig(truncate=2.0, outlier_low=1e-4, outlier_high=100.0)
    return replace(base, algorithm=AlgorithmConfig(off_policy=bounds))


if __name__ == "__main__":
    main()
