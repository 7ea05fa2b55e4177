"""The published Tinker client and unmodified loops of its cookbook on `evolute serve --train`.

    python -m venv V && V/bin/pip install tinker "tinker-cookbook[math-rl]" torch==2.13.0
    V/bin/python benches/tinker_client.py --server-python .venv/bin/python > tinker_client.json

The server trains the tiny model, written as a directory so that the client's tokenizer is the
server's. The cookbook's recipes want a name that they know and data sets of the hub: the name is
an alias (`train.names`), and directories of the data sets' names hold small generated ones, which
`datasets` takes before the hub. Parts, each a field of the one JSON object that comes out:

    supervised       cross_entropy through the client; first and last loss
    reinforcement    sample, importance_sampling, step; first and last mean reward
    custom           forward_backward_custom (a loss on the client)
    sl_loop          python -m tinker_cookbook.recipes.sl_loop
    rl_loop          python -m tinker_cookbook.recipes.rl_loop, from what sl_loop saved
    sl_basic         python -m tinker_cookbook.recipes.sl_basic
    math_rl          python -m tinker_cookbook.recipes.math_rl.train env=arithmetic

Exit status 1 when a loss or a reward does not move as it should, or a recipe fails. No GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MODEL = "Qwen/Qwen3-8B-Base"  # the alias: a name that the cookbook has a renderer for
KEY = "tml-any"
START_S, RECIPE_S = 120, 900
SUFFIX = " Provide a numerical answer without units, written inside \\boxed{}."
EXPORT = "import sys; from evolute.models import export_model, load_model; "
EXPORT += "export_model(load_model('tiny'), sys.argv[1])"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server-python", required=True, help="python that has evolute")
    parser.add_argument("--parts", default="client,sl_loop,rl_loop,sl_basic,math_rl")
    parser.add_argument("--keep", type=Path, help="work in this directory and leave it")
    chosen = parser.parse_args()
    parts = chosen.parts.split(",")
    with contextlib.ExitStack() as stack:
        place = chosen.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        place.mkdir(parents=True, exist_ok=True)
        write_inputs(place, chosen.server_python)
        url = stack.enter_context(serving(place, chosen.server_python))
        found: dict[str, Any] = {"versions": versions()}
        if "client" in parts:
            found |= through_the_client(url)
            print(json.dumps(found), file=sys.stderr, flush=True)
        for name in ("sl_loop", "rl_loop", "sl_basic", "math_rl"):
            if name in parts:
                found[name] = recipe(name, place, url)
                print(name, json.dumps(found[name]), file=sys.stderr, flush=True)
    print(json.dumps(found, indent=1))
    sys.exit(0 if all(is_fine(one) for one in found.values()) else 1)


# -- the server and what the recipes read --------------------------------------


@contextlib.contextmanager
def serving(place: Path, python: str) -> Iterator[str]:
    settings = [f'train.names=["{MODEL}"]', "num_threads=1", "memory_mb=128"]
    settings.append(f"train.directory={place / 'service'}")
    words = [python, "-m", "evolute.cli.main", "serve", "--model", str(place / MODEL), "--train"]
    words += ["--port", "0", *(w for one in settings for w in ("--set", one))]
    with (place / "server.log").open("w") as log:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout
        line = process.stdout.readline()
        if not line.startswith("ready "):
            raise SystemExit(f"the server did not start: {(place / 'server.log').read_text()}")
        yield line.split()[1]
    finally:
        process.terminate()
        process.wait(60)


def write_inputs(place: Path, python: str) -> None:
    if not (place / MODEL).exists():
        (place / MODEL).parent.mkdir(parents=True)
        subprocess.run([python, "-c", EXPORT, str(place / MODEL)], check=True)
    rng = random.Random(0)
    chats, problems = [], []
    for _ in range(1024):
        a, b = rng.randrange(5), rng.randrange(5)
        question = f"{a}+{b}?"
        answer = f"\\boxed{{{a + b}}}"
        turns = [*solved_before(rng), ("user", question + SUFFIX), ("assistant", answer)]
        chats.append({"messages": [{"role": r, "content": c} for r, c in turns]})
        problems.append({"question": question, "answer": f"so #### {a + b}"})
    for name, rows in (
        ("HuggingFaceH4/no_robots", chats),
        ("openai/gsm8k/main", problems),
    ):
        directory = place / name
        directory.mkdir(parents=True, exist_ok=True)
        card = directory.parent / "README.md"  # gsm8k's parts have names
        if name.endswith("/main"):
            files = [f"  - split: {s}\n    path: main/{s}.jsonl\n" for s in ("train", "test")]
            head = "configs:\n- config_name: main\n  data_files:\n"
            card.write_text(f"---\n{head}{''.join(files)}---\n")
        for split in ("train", "test"):
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (directory / f"{split}.jsonl").write_text(lines)


def solved_before(rng: random.Random) -> list[tuple[str, str]]:
    """rl_loop shows a solved problem before each question, so what sl_loop learns from does too:
    of any letters, as only its shape matters."""
    letters = "abcdefghijklmnopqrstuvwxyz     "
    asked, told = ("".join(rng.choices(letters, k=k)) for k in (30, rng.randrange(60, 160)))
    return [("user", f"{asked}?{SUFFIX}"), ("assistant", f"{told}. \\boxed{{{rng.randrange(9)}}}")]


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("tinker", "tinker-cookbook", "torch")}


# -- through the client -----------------------------------------------------------


def through_the_client(url: str) -> dict[str, Any]:
    warnings.filterwarnings("ignore")
    import tinker

    with tinker.ServiceClient(base_url=url, api_key=KEY) as service:
        trainer = service.create_lora_training_client(base_model=MODEL, rank=8, seed=1).result()
        tokenizer = trainer.get_tokenizer()
        return {
            "supervised": supervised(tinker, trainer, tokenizer),
            "reinforcement": reinforcement(tinker, service, tokenizer),
            "custom": custom(tinker, trainer, tokenizer),
        }


def datum(tinker: Any, tokenizer: Any, prompt: str, answer: str) -> Any:
    start = tokenizer.encode(prompt, add_special_tokens=False)
    end = tokenizer.encode(answer, add_special_tokens=False)
    ids, weights = start + end, [0.0] * len(start) + [1.0] * len(end)
    inputs = {"weights": weights[1:], "target_tokens": ids[1:]}
    return tinker.Datum(model_input=tinker.ModelInput.from_ints(ids[:-1]), loss_fn_inputs=inputs)


def supervised(tinker: Any, trainer: Any, tokenizer: Any) -> dict[str, Any]:
    data = [datum(tinker, tokenizer, f"{i} squared is ", f"{i * i}.") for i in range(12)]
    losses, began = [], time.perf_counter()
    for _ in range(20):
        passed = trainer.forward_backward(data, "cross_entropy")
        stepped = trainer.optim_step(tinker.AdamParams(learning_rate=1e-2))
        losses.append(passed.result().metrics["loss:sum"])
        stepped.result()
    path = trainer.save_state("after").result().path
    return {
        "first": losses[0],
        "last": losses[-1],
        "ok": losses[-1] < 0.6 * losses[0],
        "seconds": round(time.perf_counter() - began, 2),
        "path": path,
    }


def reinforcement(tinker: Any, service: Any, tokenizer: Any) -> dict[str, Any]:
    """Reward: the share of sampled tokens below 128."""
    trainer = service.create_lora_training_client(base_model=MODEL, rank=8, seed=2).result()
    prompt = tinker.ModelInput.from_ints(tokenizer.encode("Say:", add_special_tokens=False))
    means, began = [], time.perf_counter()
    for step in range(12):
        sampler = trainer.save_weights_and_get_sampling_client().result()
        params = tinker.SamplingParams(max_tokens=6, seed=step)
        found = sampler.sample(prompt=prompt, num_samples=32, sampling_params=params).result()
        rewards = [sum(t < 128 for t in s.tokens) / len(s.tokens) for s in found.sequences]
        mean = sum(rewards) / len(rewards)
        means.append(mean)
        data = [
            policy_datum(tinker, prompt, s, reward - mean)
            for s, reward in zip(found.sequences, rewards)
        ]
        passed = trainer.forward_backward(data, "importance_sampling")
        stepped = trainer.optim_step(tinker.AdamParams(learning_rate=2e-2))
        passed.result()
        stepped.result()
    seconds = round(time.perf_counter() - began, 2)
    return {"first": means[0], "last": means[-1], "ok": means[-1] > means[0] + 0.2} | {
        "seconds": seconds
    }


def policy_datum(tinker: Any, prompt: Any, sequence: Any, advantage: float) -> Any:
    before = prompt.length - 1
    answer = list(sequence.tokens)
    inputs = {
        "target_tokens": [0] * before + answer,
        "logprobs": [0.0] * before + list(sequence.logprobs),
        "advantages": [0.0] * before + [advantage] * len(answer),
    }
    chunk = tinker.types.EncodedTextChunk(tokens=answer[:-1])
    return tinker.Datum(model_input=prompt.append(chunk), loss_fn_inputs=inputs)


def custom(tinker: Any, trainer: Any, tokenizer: Any) -> dict[str, Any]:
    data = [datum(tinker, tokenizer, "on the client ", "it is computed")]

    def squared(data: Any, logprobs: Any) -> Any:
        loss = sum((one**2).mean() for one in logprobs)
        return loss, {"own:sum": float(loss)}

    values = []
    for _ in range(4):
        passed = trainer.forward_backward_custom(data, squared)
        values.append(passed.result().metrics["own:sum"])
        trainer.optim_step(tinker.AdamParams(learning_rate=1e-2)).result()
    return {"first": values[0], "last": values[-1], "ok": values[-1] < values[0]}


# -- the cookbook's recipes, as they are --------------------------------------------


def recipe(name: str, place: Path, url: str) -> dict[str, Any]:
    logs = place / "logs" / name
    common = [f"base_url={url}", f"model_name={MODEL}", f"log_path={logs}"]
    words = {
        "sl_loop": [
            *("batch_size=16", "max_steps=64", "lora_rank=16", "learning_rate=1e-2"),
            *("train_on_what=last_assistant_message", "max_length=1024", "save_every=20"),
        ],
        "rl_loop": [
            *("batch_size=8", "group_size=8", "max_steps=40", "lora_rank=16"),
            *("learning_rate=2e-3", "max_tokens=16", "save_every=0"),
        ],
        "sl_basic": [
            *("num_epochs=2", "learning_rate=1e-2", "eval_every=0", "lora_rank=16"),
            "save_every=0",
        ],
        "math_rl": [
            *("env=arithmetic", "group_size=4", "groups_per_batch=4", "learning_rate=1e-3"),
            *("max_tokens=8", "lora_rank=8", "max_steps=3", "eval_every=0", "save_every=0"),
        ],
    }[name]
    saved = last_of(place / "logs" / "sl_loop")
    if name == "rl_loop" and saved:
        start_from(saved, logs)
    if name == "math_rl" and saved:
        words.append(f"load_checkpoint_path={saved['state_path']}")
    module = "math_rl.train" if name == "math_rl" else name
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TINKER_API_KEY": KEY}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", f"tinker_cookbook.recipes.{module}", *common, *words],
        cwd=place,
        env=os.environ | offline | {"TINKER_BASE_URL": url, "HF_HOME": str(place / "hf")},
        capture_output=True,
        text=True,
        timeout=RECIPE_S,
    )
    seconds = round(time.perf_counter() - began, 1)
    if done.returncode:
        return {"ok": False, "error": (done.stderr or done.stdout)[-2000:], "seconds": seconds}
    rows = [json.loads(line) for line in (logs / "metrics.jsonl").read_text().splitlines()]
    return {"seconds": seconds} | judged(name, rows)


def last_of(logs: Path) -> dict[str, Any]:
    """The checkpoint that a recipe noted last; empty when it has not run."""
    file = logs / "checkpoints.jsonl"
    return json.loads(file.read_text().splitlines()[-1]) if file.exists() else {}


def start_from(saved: dict[str, Any], logs: Path) -> None:
    """rl_loop resumes from what its log directory names: here, what sl_loop saved."""
    logs.mkdir(parents=True, exist_ok=True)
    (logs / "checkpoints.jsonl").write_text(
        json.dumps(saved | {"name": "begin", "batch": 0}) + "\n"
    )


def judged(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    key = "train_mean_nll" if name.startswith("sl") else "reward/total"
    values = [row[key] for row in rows if key in row]
    if not values:
        key = next((k for k in rows[-1] if k.endswith("reward/total")), "")
        values = [row[key] for row in rows if key in row]
    told = {"steps": len(values), "first": values[0], "last": values[-1], "of": key}
    return told | {"ok": values[-1] < values[0] if name.startswith("sl") else len(values) > 0}


def is_fine(one: Any) -> bool:
    return bool(one.get("ok", True))


if __name__ == "__main__":
    main()
