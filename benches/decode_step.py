"""What does one decode step cost, and what does reading common keys once save?

    python benches/decode_step.py --rows 64 --shared 512 --own 32 --precision quantized

All rows stand behind `--shared` common tokens and `--own` of their own. Steps with and without
`engine.shared_attention` take turns; processor time of the threads, so other work on the machine
counts less. One JSON object comes out; answers are compared to the last bit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np

from evolute.engine.config import EngineConfig, resolve
from evolute.engine.execution.batch import Segment, StepBatch, build_batch
from evolute.engine.execution.native_executor import NativeExecutor
from evolute.kernels import isa
from evolute.models import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--shared", type=int, default=512)
    parser.add_argument("--own", type=int, default=32)
    parser.add_argument("--precision", default="quantized", help="float32, quantized or int8")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    executor, step = _prepare(options)
    taken: dict[bool, list[float]] = {True: [], False: []}
    answers = {}
    for _ in range(options.rounds):
        for is_shared in (True, False):
            executor.decoder.share_prefixes = is_shared
            started = time.process_time()
            logits = executor.forward(step)
            taken[is_shared].append(1e3 * (time.process_time() - started))
            answers[is_shared] = logits.tobytes()
    if answers[True] != answers[False]:
        raise SystemExit("the answers differ")
    names = {True: "shared_ms", False: "alone_ms"}
    figures = {names[key]: statistics.median(each) for key, each in taken.items()}
    spread = {names[key]: [min(each), max(each)] for key, each in taken.items()}
    config = {**vars(options), "isa": isa()}
    print(json.dumps({"config": config, "n": options.rounds, "figures": figures, "spread": spread}))


def _prepare(options: argparse.Namespace) -> tuple[NativeExecutor, StepBatch]:
    """An executor whose pages are filled, and the step to be measured."""
    model = load_model("smollm2-135m")
    config = EngineConfig(precision=options.precision, num_threads=options.threads, memory_mb=4096)
    settings = resolve(config, model.config, cores=options.threads, has_native=True)
    executor = NativeExecutor(model, settings)
    size, length = settings.config.page_size, options.shared + options.own
    common = list(range(options.shared // size))
    each = length // size + 1 - len(common)
    tables = [
        [*common, *range(len(common) + row * each, len(common) + (row + 1) * each)]
        for row in range(options.rows)
    ]
    if tables[-1][-1] >= settings.num_pages:
        raise SystemExit("so many rows of that length do not fit; lower --rows or --own")
    draw = np.random.default_rng(0)
    first = len(common) * size
    if first:
        executor.forward(build_batch([_segment(draw, 0, first, tables[0])]))
    for table in tables if length > first else ():
        executor.forward(build_batch([_segment(draw, first, length, table)]))
    rows = [_segment(draw, length, length + 1, table, logits_from=length) for table in tables]
    return executor, build_batch(rows)


def _segment(
    draw: np.random.Generator, start: int, end: int, pages: list[int], **given: int
) -> Segment:
    return Segment(draw.integers(0, 40_000, end - start).tolist(), start, pages, **given)


if __name__ == "__main__":
    main()
