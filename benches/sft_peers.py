"""Supervised updates beside TRL's SFTTrainer: the same examples, LoRA of rank 16 everywhere.

    python benches/sft_peers.py --trl-python /path/to/venv/bin/python --rounds 3 > peers.json

TRL needs an environment of its own: pip install torch==2.13.0 transformers==5.23.0 trl==1.16.0
peft==0.21.2. Each side is a process that stays; they take turns, A B C, C B A, ..., and a turn is
one update of `--examples` of skewed lengths (`evolute.bench.sft`; float32). The
first is thrown away; loading is not counted. TRL pads: `trl` has micro-batches of four and keeps
activations, `trl-sorted` has them sorted by length, `trl-default` has its defaults: eight rows,
activations computed again. `--method full` trains all weights. One JSON object comes out,
with the ratios of tokens a second (of the processor too: with `--threads 1` that figure holds
beside other work), and the loss of the first step, which all sides must share.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

OURS = {"evolute-float32": "float32", "evolute-fast": "bfloat16"}
THEIRS = ("trl", "trl-sorted", "trl-default")
TIMEOUT_S = 900.0
MICRO_BATCH, THEIR_BATCH = 4, 8  # ours to give them, and their default
Row = list[list[int]]  # prompt ids, answer ids
Tell = Callable[[dict[str, float]], None]


def main() -> None:
    options = _options()
    if not options.worker:
        print(json.dumps(_compare(options)))
        return
    out, sys.stdout = sys.stdout, sys.stderr  # others' words go to the log

    def tell(figures: dict[str, float]) -> None:
        print(json.dumps(figures), file=out, flush=True)

    rows: list[list[Row]] = json.loads(Path(os.environ["SFT_ROWS"]).read_text())
    if options.worker in THEIRS:
        _trl(rows, options, tell)
    else:
        _evolute(rows, options, tell, OURS[options.worker])


# -- the sides ---------------------------------------------------------------


def _evolute(steps: list[list[Row]], options: argparse.Namespace, tell: Tell, form: str) -> None:
    import torch

    from evolute.models import load_model
    from evolute.train import make_policy
    from evolute.train.sft import SftConfig, SftTrainer
    from evolute.types import TrainingSample

    torch.set_num_threads(options.threads)
    config = SftConfig(method=options.method, precision=form)  # type: ignore[arg-type]
    model = load_model(config.model)
    trainer = SftTrainer(make_policy(model, config), config, len(steps))
    for step in _awaited(steps):
        pairs = [(tuple(prompt), tuple(answer)) for prompt, answer in step]
        samples = [TrainingSample(p, a, (True,) * len(a), (0.0,) * len(a)) for p, a in pairs]
        watch = _watch()
        report = trainer.update(samples)
        tell(_figures(step, watch(), report.metrics["loss"]))


def _trl(steps: list[list[Row]], options: argparse.Namespace, tell: Tell) -> None:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(options.threads)
    if options.worker == "trl-sorted":
        steps = [sorted(step, key=_size) for step in steps]
    is_default = options.worker == "trl-default"
    rows = THEIR_BATCH if is_default else MICRO_BATCH
    awaited = _awaited(steps)

    class Timed(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.step = next(awaited)
            self.watch = _watch()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.seconds = self.watch()

        def on_log(self, *args: Any, logs: dict[str, float], **kwargs: Any) -> None:
            if "loss" in logs:
                tell(_figures(self.step, self.seconds, logs["loss"]))

    class InOrder(SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    with tempfile.TemporaryDirectory() as folder:
        InOrder(
            model=os.environ["PEER_MODEL"],
            args=SFTConfig(
                output_dir=folder, use_cpu=True, bf16=False, max_steps=len(steps), max_length=None,
                per_device_train_batch_size=rows, learning_rate=5e-4,
                gradient_accumulation_steps=len(steps[0]) // rows, report_to=[],
                save_strategy="no", model_init_kwargs={"dtype": "float32"}, logging_steps=1,
                dataloader_pin_memory=False, gradient_checkpointing=is_default, disable_tqdm=True,
                completion_only_loss=True,
            ),
            train_dataset=Dataset.from_list([_row(row) for step in steps for row in step]),
            peft_config=adapter if options.method == "lora" else None,
            callbacks=[Timed()],
        ).train()  # fmt: skip


def _awaited(steps: list[list[Row]]) -> Iterator[list[Row]]:
    """Each step when the other side of the pipe says so."""
    for step in steps:
        if not sys.stdin.readline():
            sys.exit()
        yield step


def _watch() -> Callable[[], tuple[float, float]]:
    """Seconds on the clock, and of the processor, since now."""
    clocks = time.perf_counter, time.process_time
    wall, cpu = (clock() for clock in clocks)
    return lambda: (clocks[0]() - wall, clocks[1]() - cpu)


def _figures(step: list[Row], seconds: tuple[float, float], loss: float) -> dict[str, float]:
    import resource

    tokens, (wall, cpu) = sum(map(_size, step)), seconds
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rates = {"tokens_per_s": tokens / wall, "tokens_per_cpu_s": tokens / cpu}
    return {"update_s": wall, "cpu_s": cpu, **rates, "loss": loss, "peak_rss_mb": peak}


def _size(row: Row) -> int:
    return len(row[0]) + len(row[1])


def _row(row: Row) -> dict[str, list[int]]:
    prompt, answer = row
    return {
        "input_ids": [*prompt, *answer],
        "completion_mask": [0] * len(prompt) + [1] * len(answer),
    }


# -- taking turns ------------------------------------------------------------


def _compare(options: argparse.Namespace) -> dict[str, Any]:
    from contextlib import ExitStack

    from evolute.bench.peers import Side, comparison, model_directory, ratio_of, take_turns

    ours, theirs = ([n for n in options.sides if n in group] for group in (OURS, THEIRS))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        given = {
            "OMP_NUM_THREADS": str(options.threads),
            "HF_HUB_OFFLINE": "1",
            "PEER_MODEL": str(model_directory(Path(folder))),
            "SFT_ROWS": str(_rows_file(Path(folder), options)),
        }
        sides = {
            name: stack.enter_context(Side(_command(name, options), given, TIMEOUT_S))
            for name in options.sides
        }
        first = take_turns(options.sides, 1, lambda name: sides[name].turn())  # not counted
        taken = take_turns(options.sides, options.rounds, lambda name: sides[name].turn())
    ratios = {
        f"{a} / {b}, {rate}": ratio_of(*([one[rate] for one in taken[n]] for n in (a, b)))
        for rate in ("tokens_per_s", "tokens_per_cpu_s")
        for a in ours
        for b in theirs
    }
    losses = {name: figures["loss"] for name, (figures,) in first.items()}
    return {**comparison("sft_peers", taken, ratios), "first_loss": losses}


def _command(side: str, options: argparse.Namespace) -> list[str]:
    python = options.trl_python if side in THEIRS else sys.executable
    command = [python, "-P", "-W", "ignore", __file__, "--worker", side]
    return [*command, "--threads", str(options.threads), "--method", options.method]


def _rows_file(folder: Path, options: argparse.Namespace) -> Path:
    """The examples of every step, as [[prompt ids, answer ids], ...]."""
    from evolute.bench.sft import samples
    from evolute.models import load_model

    vocab = load_model("smollm2-135m").config.vocab_size
    steps = [
        [[s.prompt_ids, s.response_ids] for s in samples(options.examples, vocab, seed=step)]
        for step in range(options.rounds + 1)
    ]
    path = folder / "rows.json"
    path.write_text(json.dumps(steps))
    return path


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trl-python", help="the interpreter of an environment with TRL")
    parser.add_argument("--rounds", type=int, default=3, choices=range(1, 101), metavar="1-100")
    parser.add_argument(
        "--examples", type=int, default=8, choices=range(4, 129, 4), metavar="4, 8.."
    )
    parser.add_argument("--method", default="lora", choices=("lora", "full"))
    parser.add_argument("--sides", help="comma-separated; default all that can run")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    fast = [] if options.method == "full" else ["evolute-fast"]  # halves need an adapter
    usual = ["evolute-float32", *fast, *(THEIRS if options.trl_python else [])]
    options.sides = options.sides.split(",") if options.sides else usual
    wrong = [n for n in options.sides if n not in (*OURS, *THEIRS)]
    if wrong or (set(options.sides) & set(THEIRS) and not options.trl_python):
        parser.error(f"unknown sides {wrong}, or no --trl-python for TRL's")
    return options


if __name__ == "__main__":
    main()
