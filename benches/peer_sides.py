"""One side of a comparison: load a model, warm up, do the work once, print figures as JSON.

    python -P benches/peer_sides.py NAME ITEMS.json --threads 2 --model PATH

Runs in whatever environment has the peer, so it imports nothing of this project but for our own
side. ITEMS is a list of {prompt: token ids, max_new_tokens}; everybody makes all tokens, greedily.
NAME is a peer and its form: evolute-int8, transformers-bfloat16, llama_cpp, openvino, vllm.

PATH: for transformers and llama.cpp the GGUF file; llama.cpp first requantises it to Q4_0, its
fastest form on a CPU. For openvino the directory of an export with 8-bit weights, for vllm a
Hugging Face directory.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Item = dict[str, Any]  # prompt, max_new_tokens
Figures = dict[str, float]
LEAST_SHARED = 64  # tokens that all prompts begin with, to be worth a copy


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("items")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--model", default="")
    options = parser.parse_args()
    peer, _, form = options.name.partition("-")
    items = json.loads(Path(options.items).read_text())
    print(json.dumps(SIDES[peer](items, form, options.threads, options.model)))


def _evolute(items: list[Item], precision: str, threads: int, model: str) -> Figures:
    from evolute.bench import WorkItem, replay
    from evolute.engine import EngineConfig

    config = EngineConfig(precision=precision, num_threads=threads)  # type: ignore[arg-type]
    work = [
        WorkItem(str(i), tuple(one["prompt"]), one["max_new_tokens"]) for i, one in enumerate(items)
    ]
    figures = replay("smollm2-135m", work, config).figures
    return {name: figures[name] for name in ("seconds", "output_tokens_per_s", "peak_rss_mb")}


def _transformers(items: list[Item], dtype: str, threads: int, model: str) -> Figures:
    """One left-padded batch; padding is its waste, not counted as tokens."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    file = Path(model)
    network = transformers.AutoModelForCausalLM.from_pretrained(
        str(file.parent), gguf_file=file.name, dtype=getattr(torch, dtype)
    ).eval()
    network.generation_config.eos_token_id = None
    longest, new = max(len(item["prompt"]) for item in items), items[0]["max_new_tokens"]
    ids = torch.zeros(len(items), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, item in enumerate(items):
        ids[row, longest - len(item["prompt"]) :] = torch.tensor(item["prompt"])
        mask[row, longest - len(item["prompt"]) :] = 1

    def generate(rows: int, num_new: int) -> int:
        with torch.inference_mode():
            out = network.generate(
                input_ids=ids[:rows],
                attention_mask=mask[:rows],
                max_new_tokens=num_new,
                min_new_tokens=num_new,
                do_sample=False,
                pad_token_id=0,
            )
        return rows * (int(out.shape[1]) - longest)

    generate(1, 2)
    return _timed(lambda: generate(len(items), new), items)


def _llama_cpp(items: list[Item], form: str, threads: int, model: str) -> Figures:
    """Its low-level interface: prompts in batches of 2048 tokens, then all sequences a step."""
    import llama_cpp

    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/q4_0.gguf"
        wanted = llama_cpp.llama_model_quantize_default_params()
        wanted.ftype, wanted.allow_requantize = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, True
        if llama_cpp.llama_model_quantize(model.encode(), file.encode(), ctypes.byref(wanted)):
            sys.exit("llama.cpp could not requantise the model")
        network = llama_cpp.llama_model_load_from_file(
            file.encode(), llama_cpp.llama_model_default_params()
        )
    prompts = [item["prompt"] for item in items]
    shared = _common(prompts) if len(prompts) > 1 else 0
    batch = _LlamaBatch(llama_cpp, network, items, shared >= LEAST_SHARED, threads)
    batch.generate([prompts[0][:8]], 2, 0)
    batch.clear()
    new = items[0]["max_new_tokens"]
    return _timed(
        lambda: batch.generate(prompts, new, shared if shared >= LEAST_SHARED else 0), items
    )


def _common(prompts: list[list[int]]) -> int:
    """Tokens that all begin with, the last of none among them."""
    most = min(len(prompt) for prompt in prompts) - 1
    return next((i for i in range(most) if len({p[i] for p in prompts}) > 1), most)


class _LlamaBatch:
    """A llama.cpp context with a sequence for each request."""

    def __init__(
        self, api: Any, network: Any, items: list[Item], is_unified: bool, threads: int
    ) -> None:
        longest = max(len(item["prompt"]) + item["max_new_tokens"] for item in items)
        self.api, self.size = api, 2048
        wanted = api.llama_context_default_params()
        wanted.n_ctx = len(items) * ((longest + 255) // 256 * 256)
        wanted.n_batch, wanted.n_ubatch = self.size, 512
        wanted.n_threads = wanted.n_threads_batch = threads
        wanted.n_seq_max, wanted.kv_unified = len(items), is_unified
        self.context = api.llama_init_from_model(network, wanted)
        vocabulary = api.llama_model_get_vocab(network)
        self.width = api.llama_vocab_n_tokens(vocabulary)
        self.memory = api.llama_get_memory(self.context)
        self.batch = api.llama_batch_init(self.size, 0, 1)

    def clear(self) -> None:
        self.api.llama_memory_clear(self.memory, True)

    def generate(self, prompts: list[list[int]], new: int, shared: int) -> int:
        if shared:
            self._decode([(token, i, 0, False) for i, token in enumerate(prompts[0][:shared])])
            for row in range(1, len(prompts)):
                self.api.llama_memory_seq_cp(self.memory, 0, row, 0, shared)
        last, left = dict[int, int](), list[tuple[int, int, int, bool]]()
        for row, prompt in enumerate(prompts):
            for i in range(shared, len(prompt)):
                left.append((prompt[i], i, row, i == len(prompt) - 1))
        for first in range(0, len(left), self.size):
            last |= self._decode(left[first : first + self.size])
        for step in range(new - 1):
            rows = range(len(prompts))
            last = self._decode([(last[r], len(prompts[r]) + step, r, True) for r in rows])
        return new * len(prompts)

    def _decode(self, tokens: list[tuple[int, int, int, bool]]) -> dict[int, int]:
        """Token, position, sequence, whether the next is wanted; the next ones by sequence."""
        import numpy as np

        batch, api = self.batch, self.api
        batch.n_tokens = len(tokens)
        for i, (token, position, row, wants) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wants
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, row
        if api.llama_decode(self.context, batch):
            sys.exit("llama.cpp could not compute a batch")
        found = {}
        for i, (_, _, row, wants) in enumerate(tokens):
            if wants:
                logits = api.llama_get_logits_ith(self.context, i)
                found[row] = int(np.argmax(np.ctypeslib.as_array(logits, shape=(self.width,))))
        return found


def _openvino(items: list[Item], form: str, threads: int, model: str) -> Figures:
    """Continuous batching with the prefix cache on; steps of 512 tokens, as ours."""
    import numpy as np
    import openvino
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size, scheduler.max_num_seqs = 3, 64
    scheduler.enable_prefix_caching, scheduler.dynamic_split_fuse = True, True
    scheduler.max_num_batched_tokens = 512
    settings = {"INFERENCE_NUM_THREADS": threads}
    pipeline = openvino_genai.ContinuousBatchingPipeline(model, scheduler, "CPU", settings)
    new = items[0]["max_new_tokens"]

    def generate(prompts: list[list[int]], num_new: int) -> int:
        wanted = openvino_genai.GenerationConfig()
        wanted.max_new_tokens = wanted.min_new_tokens = num_new
        wanted.ignore_eos, wanted.do_sample, wanted.apply_chat_template = True, False, False
        tensors = [openvino.Tensor(np.array([prompt], np.int64)) for prompt in prompts]
        outputs = pipeline.generate(tensors, [wanted] * len(prompts))
        return sum(len(output.m_generation_ids[0]) for output in outputs)

    generate([[1, 2, 3, 4]], 2)
    return _timed(lambda: generate([item["prompt"] for item in items], new), items)


def _vllm(items: list[Item], form: str, threads: int, model: str) -> Figures:
    import vllm

    engine = vllm.LLM(model, dtype=form or "bfloat16", max_model_len=1024, max_num_seqs=64)
    new = items[0]["max_new_tokens"]

    def generate(prompts: list[list[int]], num_new: int) -> int:
        wanted = vllm.SamplingParams(
            temperature=0, max_tokens=num_new, ignore_eos=True, detokenize=False
        )
        outputs = engine.generate(
            [{"prompt_token_ids": p} for p in prompts], wanted, use_tqdm=False
        )
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    generate([[1, 2, 3, 4]], 2)
    return _timed(lambda: generate([item["prompt"] for item in items], new), items)


def _timed(work: Callable[[], int], items: list[Item]) -> Figures:
    """`work` returns how many tokens it made."""
    import resource

    started = time.perf_counter()
    made = work()
    seconds = time.perf_counter() - started
    wanted = sum(item["max_new_tokens"] for item in items)
    if made != wanted:
        sys.exit(f"{made} tokens came out, {wanted} were asked for")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": seconds,
        "output_tokens_per_s": made / seconds,
        "peak_rss_mb": peak / 1024,
    }


SIDES: dict[str, Callable[[list[Item], str, int, str], Figures]] = {
    "evolute": _evolute,
    "transformers": _transformers,
    "llama_cpp": _llama_cpp,
    "openvino": _openvino,
    "vllm": _vllm,
}

if __name__ == "__main__":
    main()
