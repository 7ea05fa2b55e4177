"""What does a decode step cost on a GPU, with CUDA graphs and without, beside torch's?

    python benches/triton_step.py --rows 32 --context 512 --precision bfloat16

Needs a GPU. The three take turns; wall seconds of a whole step, its copies included. One JSON
object comes out. With graphs and without, logits must be equal to the last bit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np

from evolute.engine.config import EngineConfig, resolve
from evolute.engine.execution.batch import Executor, Segment, StepBatch, build_batch
from evolute.models import LoadedModel, load_model

FILL = 512  # tokens of a step that fills pages


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--context", type=int, default=512, help="tokens before the step's own")
    parser.add_argument("--precision", default="bfloat16", help="float32, bfloat16 or quantized")
    parser.add_argument("--memory-mb", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    model = load_model(options.model)
    executors = {kind: _executor(model, options, kind) for kind in _kinds(options.precision)}
    step = _prepare(list(executors.values()), options)
    taken: dict[str, list[float]] = {kind: [] for kind in executors}
    logits: dict[str, bytes] = {}
    for _ in range(options.rounds + 3):  # the first ones compile and record
        for kind, executor in executors.items():
            started = time.perf_counter()
            found = executor.forward(step)
            taken[kind].append(1e3 * (time.perf_counter() - started))
            logits[kind] = found.tobytes()
    if logits["graphs"] != logits["no graphs"]:
        raise SystemExit("the answers with graphs differ from those without")
    kept = {kind: each[3:] for kind, each in taken.items()}
    figures = {kind: statistics.median(each) for kind, each in kept.items()}
    spread = {kind: [min(each), max(each)] for kind, each in kept.items()}
    config = vars(options)
    print(json.dumps({"config": config, "n": options.rounds, "ms": figures, "spread": spread}))


def _kinds(precision: str) -> tuple[str, ...]:
    kinds = ("graphs", "no graphs")
    return kinds if precision == "quantized" else (*kinds, "torch")


def _executor(model: LoadedModel, options: argparse.Namespace, kind: str) -> Executor:
    import torch

    from evolute.engine.execution.torch_executor import TorchExecutor
    from evolute.engine.execution.triton_executor import TritonExecutor

    if not torch.cuda.is_available():
        raise SystemExit("no GPU is found here, and this measures one")
    config = EngineConfig(
        executor="torch" if kind == "torch" else "triton",
        device="cuda",
        precision=options.precision,
        kv_dtype="float32" if options.precision == "float32" else "bfloat16",
        cuda_graphs="on" if kind == "graphs" else "off",
        memory_mb=options.memory_mb,
    )
    settings = resolve(config, model.config, cores=1, has_native=False, triton_fault="")
    if kind == "torch":
        return TorchExecutor(model.config, model.weights, settings)
    return TritonExecutor(model, settings)


def _prepare(executors: list[Executor], options: argparse.Namespace) -> StepBatch:
    """The step to be measured; the pages before it are filled."""
    size = EngineConfig().page_size
    each = options.context // size + 1
    draw = np.random.default_rng(0)
    ids = draw.integers(0, 250, (options.rows, options.context + 1)).tolist()
    tables = [range(row * each, (row + 1) * each) for row in range(options.rows)]
    for row, table in enumerate(tables):
        for start in range(0, options.context, FILL):
            end = min(start + FILL, options.context)
            batch = build_batch([Segment(ids[row][start:end], start, table)])
            for executor in executors:
                executor.forward(batch)
    at = options.context
    return build_batch([Segment(ids[r][at:], at, t, -1, at) for r, t in enumerate(tables)])


if __name__ == "__main__":
    main()
