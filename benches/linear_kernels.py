"""How fast are products with packed weights, in each form, at the model's shapes?

    python benches/linear_kernels.py [--rows 1 64 512] [--rounds 12] [--threads 1]

The best of the rounds, forms in turn; billions of multiplications and additions a second, and the
mean error beside float32 on random numbers.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from evolute.kernels import PackedLinear

SHAPES = [(1536, 576), (576, 1536), (49152, 576)]  # outputs, inputs of SmolLM2-135M
FORMS = {
    "float32": PackedLinear.from_float32,
    "4 bits": lambda w: PackedLinear.quantize(w, 4),
    "8 bits": lambda w: PackedLinear.quantize(w, 8),
    "channels": PackedLinear.quantize_channels,
    "channels by 96": lambda w: PackedLinear.quantize_channels(w, 3),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 64, 512])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    draw = np.random.default_rng(0)
    found = []
    for outputs, inputs in SHAPES:
        weight = draw.standard_normal((outputs, inputs)).astype(np.float32)
        packed = {form: pack(weight) for form, pack in FORMS.items()}
        for rows in options.rows:
            x = draw.standard_normal((rows, inputs)).astype(np.float32)
            found += _measure(packed, x, x @ weight.T, options)
    print(json.dumps({"config": vars(options), "n": options.rounds, "figures": found}))


def _measure(
    packed: dict[str, PackedLinear], x: np.ndarray, exact: np.ndarray, options: argparse.Namespace
) -> list[dict[str, object]]:
    best = dict.fromkeys(packed, float("inf"))
    for _ in range(options.rounds):
        for form, weight in packed.items():
            started = time.perf_counter()
            weight(x, num_threads=options.threads)
            best[form] = min(best[form], time.perf_counter() - started)
    found = []
    for form, weight in packed.items():
        error = float(np.abs(weight(x) - exact).mean() / np.abs(exact).mean())
        speed = 2 * exact.size * x.shape[1] / best[form] / 1e9
        outputs, inputs = weight.shape
        print(f"{outputs} x {inputs}, {len(x)} rows, {form}: {speed:.0f} GOP/s, error {error:.4f}")
        found.append({"shape": weight.shape, "rows": len(x), "form": form, "gops": speed})
    return found


if __name__ == "__main__":
    main()
