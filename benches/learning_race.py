"""Reward against the clock, beside TRL's GRPOTrainer: the same task, problems, rewards, settings.

    python benches/learning_race.py --trl-python VENV/bin/python --rounds 1 --plot race.html

TRL needs an environment of its own that has Evolute, too, for the task's rewards: pip install .
trl==1.16.0 transformers==5.23.0 peft==0.21.2. Both train the embedded model with LoRA of rank 16 by
the recipe (default: that of `evolute train rl`), each alone on the machine, one after the other;
every round has another seed and the other order. The clock starts when the model is loaded and runs
through rollouts, updates and, on our side, publication. It is a race by time, so ours may take more
steps (`--our-steps`) than TRL has time for. Two curves are compared by the reward that TRL ends
with, the mean of its last `--window` steps: when does the mean of so many steps first reach it? TRL
generates with `transformers` in float32; ours in `--precision`, and trains in float32. One JSON
object comes out.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIDES = ("evolute", "trl")
TIMEOUT_S = 3 * 3600
PROBLEMS = 2048  # that TRL draws from
THEIR_BATCH = 16  # rows of a micro-batch; one of 64 takes 19 GB
RULES = {"grpo": "group", "dr_grpo": "none"}  # what TRL divides advantages by
SCHEDULES = {"linear": "linear", "constant": "constant_with_warmup"}
Curve = list[tuple[float, float]]  # seconds, mean reward of a step


def main() -> None:
    options = _options()
    if options.worker:
        out, sys.stdout = sys.stdout, sys.stderr  # others' words go to the log
        run = _evolute if options.worker == "evolute" else _trl
        print(json.dumps(run(options)), file=out, flush=True)
        return
    if not 1 <= options.window <= _recipe(options).steps:
        sys.exit(f"--window is {options.window}; it must be 1 to the recipe's number of steps.")
    from evolute.bench import BenchResult
    from evolute.bench.peers import model_directory

    rounds: list[dict[str, Curve]] = []
    with tempfile.TemporaryDirectory() as folder:
        model = model_directory(Path(folder))
        for number in range(options.rounds):
            names = SIDES if number % 2 == 0 else SIDES[::-1]
            rounds.append({name: _run(name, options, number, model) for name in names})
            print(json.dumps(_figures(rounds[-1], options.window)), file=sys.stderr, flush=True)
    if options.plot:
        options.plot.write_text(_page(rounds))
    named = BenchResult("learning_race", {"recipe": str(options.recipe)}, {}, len(rounds), {})
    found = [_figures(curves, options.window) | {"curves": curves} for curves in rounds]
    print(json.dumps({"machine": named.machine, "commit": named.commit, "n": len(rounds),
                      "window": options.window, "precision": options.precision,
                      "rounds": found}))  # fmt: skip


# -- the sides ---------------------------------------------------------------


def _evolute(options: argparse.Namespace) -> Curve:
    import torch

    from evolute.engine import Engine, EngineConfig
    from evolute.models import load_model
    from evolute.train import Controller

    torch.set_num_threads(options.threads)
    recipe = _recipe(options)
    steps = options.our_steps or recipe.steps
    config = dataclasses.replace(recipe, update_nice=0, steps=steps)
    model = load_model(config.model)
    engine_config = EngineConfig(
        precision=options.precision, page_size=4, num_threads=options.threads
    )
    curve: Curve = []
    with Engine(model, engine_config) as engine, tempfile.TemporaryDirectory() as folder:
        controller = Controller(config, Path(folder), model, engine)
        started = time.perf_counter()

        def on_step(report: Any) -> None:
            curve.append((time.perf_counter() - started, report.metrics["reward_mean"]))
            _say(options, curve)

        asyncio.run(controller.run(on_step))
    return curve


def _trl(options: argparse.Namespace) -> Curve:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import GRPOTrainer

    from evolute.envs import make_task
    from evolute.envs.step import read_step

    torch.set_num_threads(options.threads)
    recipe = _recipe(options)
    task = make_task(recipe.task)
    problems = task.problems("train", PROBLEMS, seed=recipe.seed)
    known = {problem.messages[-1]["content"]: problem for problem in problems}
    curve: Curve = []
    started = [0.0]

    def reward(prompts: Any, completions: Any, **_: Any) -> list[float]:
        found = []
        for prompt, completion in zip(prompts, completions, strict=True):
            problem = known[prompt[-1]["content"]]
            env = task.make(problem)
            env.init(problem.messages)
            found.append(read_step(env.step(completion[-1]["content"])).reward)
            env.close()
        return found

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *args: Any, **settings: Any) -> None:
            started[0] = time.perf_counter()

        def on_log(self, *args: Any, logs: dict[str, float], **settings: Any) -> None:
            if "reward" in logs:
                curve.append((time.perf_counter() - started[0], logs["reward"]))
                _say(options, curve)

    with tempfile.TemporaryDirectory() as folder:
        GRPOTrainer(
            model=os.environ["PEER_MODEL"],
            reward_funcs=reward,
            args=_their_settings(recipe, task.max_new_tokens, folder),
            train_dataset=Dataset.from_list([{"prompt": list(p.messages)} for p in problems]),
            peft_config=LoraConfig(
                r=recipe.lora.rank, lora_alpha=recipe.lora.alpha, target_modules="all-linear",
                task_type="CAUSAL_LM",
            ),
            callbacks=[Watch()],
        ).train()  # fmt: skip
    return curve


def _their_settings(recipe: Any, max_new_tokens: int, folder: str) -> Any:
    """The recipe in TRL's words. Raises SystemExit for one that TRL is not told how to follow."""
    from trl import GRPOConfig

    rule, adam = recipe.algorithm, recipe.optimizer
    rows = recipe.prompts_per_step * recipe.samples_per_prompt
    if rule.advantage not in RULES or rule.reduction != "token_mean" or recipe.method != "lora":
        sys.exit("the race knows grpo and dr_grpo with token_mean and LoRA; take another recipe.")
    if rows % THEIR_BATCH:
        sys.exit(f"{rows} rollouts a step are no multiple of {THEIR_BATCH}, TRL's micro-batch.")
    return GRPOConfig(
        output_dir=folder, use_cpu=True, bf16=False, seed=recipe.seed,
        per_device_train_batch_size=THEIR_BATCH, gradient_accumulation_steps=rows // THEIR_BATCH,
        num_generations=recipe.samples_per_prompt,
        max_completion_length=recipe.max_new_tokens or max_new_tokens,
        max_steps=recipe.steps, learning_rate=adam.lr, adam_beta1=adam.beta1,
        adam_beta2=adam.beta2, weight_decay=adam.weight_decay, max_grad_norm=adam.max_grad_norm,
        warmup_steps=adam.warmup_steps, lr_scheduler_type=SCHEDULES[adam.decay],
        temperature=recipe.temperature, beta=0.0, loss_type="dapo",  # a mean over all tokens
        scale_rewards=RULES[rule.advantage], model_init_kwargs={"dtype": "float32"},
        logging_steps=1, report_to=[], save_strategy="no", dataloader_pin_memory=False,
        gradient_checkpointing=False, disable_tqdm=True,
    )  # fmt: skip


def _recipe(options: argparse.Namespace) -> Any:
    from evolute.train import TrainConfig
    from evolute.types.settings import load

    files = [options.recipe] if options.recipe else []
    return load(TrainConfig, files=files, overrides=[*options.set, f"seed={options.seed}"])


def _say(options: argparse.Namespace, curve: Curve) -> None:
    seconds, reward = curve[-1]
    text = (
        f"{options.worker} seed {options.seed} step {len(curve)}: {reward:.3f} at {seconds:.0f} s"
    )
    print(text, file=sys.stderr, flush=True)


# -- the race ----------------------------------------------------------------


def _run(side: str, options: argparse.Namespace, seed: int, model: Path) -> Curve:
    """One side's whole run, in a process of its own."""
    python = options.trl_python if side == "trl" else sys.executable
    command = [python, "-P", "-W", "ignore", __file__, "--worker", side, "--seed", str(seed)]
    command += ["--threads", str(options.threads), "--precision", options.precision]
    command += ["--our-steps", str(options.our_steps)]
    command += ["--recipe", str(options.recipe)] if options.recipe else []
    command += [part for one in options.set for part in ("--set", one)]
    given = {
        "OMP_NUM_THREADS": str(options.threads),
        "HF_HUB_OFFLINE": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "PEER_MODEL": str(model),
    }
    ran = subprocess.run(
        command, env={**os.environ, **given}, stdout=subprocess.PIPE, timeout=TIMEOUT_S, check=True
    )
    return [(seconds, reward) for seconds, reward in json.loads(ran.stdout)]


def _figures(curves: dict[str, Curve], window: int) -> dict[str, Any]:
    """When the smoothed curves first reach what TRL ends with; None: never."""
    smooth = {side: _smoothed(curve, window) for side, curve in curves.items()}
    aim = smooth["trl"][-1][1]
    reached = {
        side: next((seconds for seconds, reward in curve if reward >= aim), None)
        for side, curve in smooth.items()
    }
    found: dict[str, Any] = {"aim": aim, "reached_s": reached}
    found["ends"] = {side: curve[-1] for side, curve in smooth.items()}
    ours = reached["evolute"]
    if ours is not None:
        assert reached["trl"] is not None
        found["share_of_their_time"] = ours / reached["trl"]
        found["share_of_their_run"] = ours / smooth["trl"][-1][0]
    return found


def _smoothed(curve: Curve, window: int) -> Curve:
    """Means of `window` steps, at the end of the last of them."""
    rewards = [reward for _, reward in curve]
    return [
        (curve[end - 1][0], sum(rewards[end - window : end]) / window)
        for end in range(window, len(curve) + 1)
    ]


def _page(rounds: list[dict[str, Curve]]) -> str:
    from evolute.dashboard.page import page
    from evolute.dashboard.plots import lines

    series = {
        f"{side}, seed {seed}": curve
        for seed, curves in enumerate(rounds)
        for side, curve in curves.items()
    }
    plot = lines("mean reward of a step", series, x_name="s")
    return page("Reward against the clock", [plot])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--trl-python",
        default=sys.executable,
        help="the interpreter that has TRL; default: this one",
    )
    parser.add_argument("--recipe", type=Path, help="a TOML file; default: the defaults")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of the recipe")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--our-steps", type=int, default=0, help="0: as many as TRL's")
    parser.add_argument("--window", type=int, default=4, help="steps that a mean is taken of")
    parser.add_argument("--precision", default="float32", choices=["float32", "quantized"])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--plot", type=Path, help="save the curves as an HTML page")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
