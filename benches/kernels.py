"""Time of one native step at SmolLM2-135M's sizes with random weights: python benches/kernels.py"""

from __future__ import annotations

import json
import time

import numpy as np

from evolute.kernels import DecoderShape, KvPool, NativeDecoder, PackedLinear, isa

SHAPE = DecoderShape(30, 576, 9, 3, 64, 1536, 49152, 1e-5)
OUTS = {"q": 576, "k": 192, "v": 192, "o": 576, "gate": 1536, "up": 1536, "down": 576}
CONTEXT = 200


def packed(rng: np.random.Generator, n: int, k: int, bits: int) -> PackedLinear:
    if bits == 32:
        return PackedLinear.from_float32(rng.standard_normal((n, k), np.float32))
    codes = rng.integers(0, 2**bits, (n, k), np.uint8)
    scale = np.full((n, k // 32), 2.0**-10, np.float32)
    return PackedLinear.from_blocks(codes, scale, scale * -(2 ** (bits - 1)), bits)


def decoder(bits: int, num_threads: int, context: int = CONTEXT) -> NativeDecoder:
    rng = np.random.default_rng(0)
    native = NativeDecoder(SHAPE, np.ones((max(1024, context), 64), np.float32), num_threads)
    for layer in range(SHAPE.num_layers):
        for module, n in OUTS.items():
            k = 1536 if module == "down" else 576
            native.set_linear(layer, module, packed(rng, n, k, bits))
        for norm in ("attention", "mlp"):
            native.set_norm(layer, norm, np.ones(576, np.float32))
    head = packed(rng, 49152, 576, 32 if bits == 32 else 8)
    native.set_vocabulary(head, head)
    native.set_final_norm(np.ones(576, np.float32))
    return native


def seconds(
    native: NativeDecoder,
    pool: KvPool,
    num: int,
    tokens: int,
    repeats: int,
    context: int = CONTEXT,
) -> list[float]:
    """Times of a step of `num` sequences that compute their last `tokens` of `context` tokens."""
    wide = -(-context // 16)
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        native.forward(
            pool,
            token_ids=np.zeros(num * tokens),
            positions=np.tile(np.arange(context - tokens, context), num),
            row_start=np.arange(num + 1) * tokens,
            context_len=np.full(num, context),
            page_table=np.arange(num * wide).reshape(num, wide),
            adapter=np.full(num, -1),
            logit_rows=np.arange(num) * tokens,
        )
        times.append(time.perf_counter() - start)
    return times[1:]


def main() -> None:
    figures = []
    for bits in (4, 32):
        native = decoder(bits, 2)
        pool = KvPool(30, 64 * 13, 16, 3, 64, "float16" if bits == 4 else "float32")
        for num, tokens in ((1, 1), (8, 1), (32, 1), (64, 1), (4, 128)):
            times = seconds(native, pool, num, tokens, 5)
            mean = float(np.mean(times))
            figure = {"bits": bits, "sequences": num, "tokens_each": tokens, "n": len(times)}
            figure |= {"min_ms": 1e3 * min(times), "mean_ms": 1e3 * mean}
            figures.append(figure | {"tokens_per_s": num * tokens / mean})
    print(json.dumps({"isa": isa(), "context": CONTEXT, "threads": 2, "figures": figures}))


if __name__ == "__main__":
    main()
