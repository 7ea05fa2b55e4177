"""How near to the machine's limits is a decode step? Both are measured here, in turn.

    python benches/limits.py [--rounds 7] [--threads 2] [--context 200]

Limits: the best 8-bit matrix product that torch offers at each of the model's shapes with 64 rows
(weights change from call to call, so that they come from memory), and plain reading of memory.
Ours: a whole step of 64 rows, attention and all, over the first; the bytes of the weights that a
step of one row reads over the second. SmolLM2-135M's sizes with random weights in the file's codes.
Medians of the rounds; one JSON object comes out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator

import torch
from kernels import decoder, seconds

from evolute.kernels import KvPool, isa

ROWS = 64
LAYERS = 30
SHAPES = {
    (576, 576): 2,
    (192, 576): 2,
    (1536, 576): 2,
    (576, 1536): 1,
}  # outputs, inputs: of a layer
HEAD = (49152, 576)
COLD = 64 << 20  # bytes of weights that calls walk through
READ = 256 << 20
BITS = {"layers": 4 + 2 * 16 / 32, "head": 8 + 2 * 16 / 32}  # with a block's scale and offset


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    native = decoder(4, options.threads, options.context)
    pool = KvPool(LAYERS, ROWS * -(-options.context // 16), 16, 3, 64, "float16")
    products = {shape: _products(shape) for shape in (*SHAPES, HEAD)}
    taken: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for name, times in _round(products, native, pool, options.context):
            taken.setdefault(name, []).append(times)
    median = {name: statistics.median(times) for name, times in taken.items()}
    spread = {name: (min(times), max(times)) for name, times in taken.items()}
    found = _ratios(median)
    for name, value in found.items():
        print(f"{name}: {value:.3g}")
    config = vars(options) | {"isa": isa(), "torch": torch.__version__}
    print(json.dumps({"config": config, "seconds": median, "spread": spread, "figures": found}))


# -- internals ---------------------------------------------------------------


def _round(
    products: dict[tuple[int, int], dict[str, Callable[[], object]]],
    native: object,
    pool: KvPool,
    context: int,
) -> Iterator[tuple[str, float]]:
    """Seconds of each thing once."""
    for shape, ways in products.items():
        for way, multiply in ways.items():
            yield f"{shape[0]}x{shape[1]}/{way}", _per_call(multiply, 1 if shape == HEAD else 40)
    memory = torch.ones(READ // 4)
    yield "read", _per_call(lambda: memory.sum(), 3)
    for rows in (1, ROWS):
        yield f"step/{rows}", statistics.median(seconds(native, pool, rows, 1, 5, context))


def _ratios(median: dict[str, float]) -> dict[str, float]:
    best = {}
    for shape in (*SHAPES, HEAD):
        start = f"{shape[0]}x{shape[1]}/"
        best[shape] = min(value for name, value in median.items() if name.startswith(start))
    limit = LAYERS * sum(count * best[shape] for shape, count in SHAPES.items()) + best[HEAD]
    matrices = LAYERS * sum(count * n * k for (n, k), count in SHAPES.items())
    head = HEAD[0] * HEAD[1]
    operations = 2 * ROWS * (matrices + head)
    weights = (matrices * BITS["layers"] + head * BITS["head"]) / 8
    read = READ / median["read"]
    return {
        "best_gemm_gops": operations / limit / 1e9,
        "step_gops": operations / median[f"step/{ROWS}"] / 1e9,
        "step_of_best_gemm": limit / median[f"step/{ROWS}"],
        "memory_gb_s": read / 1e9,
        "weights_gb_s": weights / median["step/1"] / 1e9,
        "weights_of_memory": weights / median["step/1"] / read,
    }


def _products(shape: tuple[int, int]) -> dict[str, Callable[[], object]]:
    """Ways to multiply 64 rows by 8-bit weights: name -> a call that uses the next weights."""
    n, k = shape
    count = max(2, COLD // (n * k))
    x, codes = torch.randn(ROWS, k), torch.randint(-127, 127, (ROWS, k), dtype=torch.int8)
    ways = {}
    for engine in torch.backends.quantized.supported_engines:
        if engine in ("onednn", "x86", "fbgemm"):
            with contextlib.suppress(RuntimeError):  # a build without it
                torch.backends.quantized.engine = engine
                packed = [_dynamic(n, k) for _ in range(count)]
                ways[engine] = _in_turn(packed, lambda w: torch.ops.quantized.linear_dynamic(x, w))
    if isa().startswith("avx512"):  # elsewhere torch falls back to plain loops: minutes
        whole = [torch.randint(-127, 127, (k, n), dtype=torch.int8) for _ in range(count)]
        ways["int_mm"] = _in_turn(whole, lambda w: torch._int_mm(codes, w))
    return ways


def _dynamic(n: int, k: int) -> object:
    weight = torch.quantize_per_tensor(torch.randn(n, k), 0.05, 0, torch.qint8)
    return torch.ops.quantized.linear_prepack(weight, None)


def _in_turn(weights: list[object], multiply: Callable[[object], object]) -> Callable[[], object]:
    at = 0

    def call() -> object:
        nonlocal at
        at = (at + 1) % len(weights)
        return multiply(weights[at])

    call()
    return call


def _per_call(call: Callable[[], object], repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats


if __name__ == "__main__":
    main()
