"""One RL update beside TRL's: 8 prompts x 8 samples x 64 new tokens, LoRA of rank 16 everywhere.

    python benches/training_peers.py --trl-python /path/to/venv/bin/python --rounds 3 > peers.json

TRL needs an environment of its own: pip install torch==2.13.0 transformers==5.23.0 trl==1.16.0
peft==0.21.2. The sides take turns, A B C, C B A, ..., each in a process of its own. A
side makes one update that is thrown away, then one that counts: rollouts, update and, on our side,
publication; loading is not counted. TRL generates with `transformers` in float32 and trains in
micro-batches of 16 (one of 64 takes 19 GB). One JSON object comes out, with the ratios of TRL's
time to ours.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

OURS = {
    "evolute-float32": ("float32", "float32"),
    "evolute-rollouts-8-bit": ("quantized", "float32"),
    "evolute-fast": ("quantized", "bfloat16"),  # rollouts in 8 bits, products in bfloat16
}
TIMEOUT_S = 1800


def main() -> None:
    options = _options()
    if options.worker:
        out, sys.stdout = sys.stdout, sys.stderr  # others' words go to the log
        ours = OURS.get(options.worker)
        figures = _evolute(*ours, options.threads) if ours else _trl(options.threads)
        print(json.dumps(figures), file=out, flush=True)
    else:
        print(json.dumps(_compare(options)))


# -- the sides ---------------------------------------------------------------


def _evolute(rollouts: str, training: str, threads: int) -> dict[str, float]:
    import torch

    from evolute.bench.training import run
    from evolute.engine import EngineConfig

    torch.set_num_threads(threads)
    config = EngineConfig(precision=rollouts, num_threads=threads)  # type: ignore[arg-type]
    figures = run(False, config=config, precision=training, repeats=1).figures
    names = (
        "seconds",
        "rollout_s",
        "update_s",
        "publish_s",
        "peak_rss_mb",
        "logprob_abs_diff_mean",
    )
    return {name: figures[name] for name in names}


def _trl(threads: int) -> dict[str, float]:
    import resource

    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(threads)
    seconds: list[float] = []
    rollout: list[float] = []

    class Timed(GRPOTrainer):  # type: ignore[misc]
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            started = time.perf_counter()
            out = super()._generate_and_score_completions(inputs)
            rollout.append(time.perf_counter() - started)
            return out

        def training_step(self, *args: Any, **settings: Any) -> Any:
            started = time.perf_counter()
            loss = super().training_step(*args, **settings)
            seconds.append(time.perf_counter() - started)
            return loss

    questions = [f"What is {i + 11} plus {3 * i + 10}? Answer with a number." for i in range(64)]
    prompts = [{"prompt": [{"role": "user", "content": text}]} for text in questions]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Timed(
            model=os.environ["PEER_MODEL"],
            reward_funcs=lambda completions, **_: [float(i % 2) for i in range(len(completions))],
            args=GRPOConfig(
                output_dir=folder, use_cpu=True, bf16=False, per_device_train_batch_size=16,
                gradient_accumulation_steps=4, num_generations=8, max_completion_length=64,
                max_steps=2, learning_rate=1e-5, report_to=[], save_strategy="no", beta=0.0,
                temperature=1.0, model_init_kwargs={"dtype": "float32"}, logging_steps=1,
                dataloader_pin_memory=False, gradient_checkpointing=False, disable_tqdm=True,
                generation_kwargs={"min_new_tokens": 64},
            ),
            train_dataset=Dataset.from_list(prompts),
            peft_config=LoraConfig(
                r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
        )  # fmt: skip
        trainer.train()
    rolled = sum(rollout[len(rollout) // 2 :])
    total = sum(seconds[len(seconds) // 2 :])  # the optimizer's own step is not counted against it
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": total, "rollout_s": rolled, "update_s": total - rolled, "peak_rss_mb": peak}


# -- taking turns ------------------------------------------------------------


def _compare(options: argparse.Namespace) -> dict[str, Any]:
    from evolute.bench.peers import comparison, model_directory, ratio_of, take_turns

    ours = [side for side in OURS if side in (options.sides or OURS)]
    sides = [*ours, *(["trl"] if options.trl_python else [])]
    with tempfile.TemporaryDirectory() as folder:
        given = {
            "OMP_NUM_THREADS": str(options.threads),
            "HF_HUB_OFFLINE": "1",
            "TRL_EXPERIMENTAL_SILENCE": "1",
            "PEER_MODEL": str(model_directory(Path(folder))),
        }
        taken = take_turns(sides, options.rounds, lambda side: _turn(side, options, given))
    seconds = {side: [one["seconds"] for one in figures] for side, figures in taken.items()}
    ratios = {}
    for side in ours if options.trl_python else ():
        ratios[f"trl / {side}"] = ratio_of(seconds["trl"], seconds[side])
    return comparison("training_peers", taken, ratios)


def _turn(side: str, options: argparse.Namespace, given: dict[str, str]) -> dict[str, float]:
    """In a process of its own, thrown away with its first update."""
    from evolute.bench.peers import Side

    python = options.trl_python if side == "trl" else sys.executable
    command = [python, "-P", "-W", "ignore", __file__, "--worker", side]
    command += ["--threads", str(options.threads)]
    with Side(command, given, TIMEOUT_S) as process:
        return process.turn()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trl-python", help="the interpreter of an environment with TRL")
    parser.add_argument("--sides", nargs="+", choices=OURS, help="only these of ours")
    parser.add_argument("--rounds", type=int, default=3, choices=range(1, 11), metavar="1-10")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
