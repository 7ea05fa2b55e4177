"""The fast way to compute a step on a GPU: Triton kernels, and CUDA graphs for decodes.

Without a GPU the same code runs in Triton's interpreter (TRITON_INTERPRET=1), for tests. Keys and
values of all layers lie in one tensor [2 layers, pages + 1, page], so that an adapter's floats can
lie in its pages and be read there; the last page is nobody's: padded rows of graphs write to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from evolute.engine.config import Resolved
from evolute.engine.execution.batch import Bytes, Float32, StepBatch
from evolute.engine.execution.decode_graphs import DecodeGraphs, Record, capture
from evolute.engine.execution.step_inputs import Shape, StepInputs
from evolute.engine.execution.triton_adapters import ARENA_BLOCK, AdapterTable, Arena
from evolute.engine.execution.triton_network import Network
from evolute.kernels.reference import Pages
from evolute.kernels.triton.rowwise import rms_norm
from evolute.models import LoadedModel, ModelWeights, PackedLora
from evolute.types import BackendError, ConfigError

COPIES = 2  # keys and values


class TritonExecutor:
    """An `Executor` on the Triton kernels."""

    def __init__(
        self, model: LoadedModel, settings: Resolved, record: Record | None = None
    ) -> None:
        """`record` in place of CUDA's: how a decode step is kept for the next of its kind. Raises
        ConfigError where the kernels do not run."""
        config, chosen = model.config, settings.config
        self._device = torch.device(chosen.device)
        is_cuda = self._device.type == "cuda"
        dtype = torch.float32 if chosen.precision == "float32" or not is_cuda else torch.bfloat16
        self.network = Network(config, dtype, chosen.precision == "quantized", self._device)
        _try_kernels(self._device)
        self.network.set_weights(model.weights)
        self._make_pages(settings, config.num_layers, (config.num_kv_heads, config.head_width))
        self._arena = None if chosen.adapter_paging else Arena(self._device)
        floats = self._memory.view(-1).view(torch.float32)
        block = self._memory[0, 0].numel() * self._memory.element_size() // 4
        memory, block = (self._arena.memory, ARENA_BLOCK) if self._arena else (floats, block)
        self._adapters = AdapterTable(config.num_layers, memory, block)
        self._floats, self._moves = floats, 0
        if record is None and chosen.cuda_graphs == "on":
            record = capture()
        self.graphs: DecodeGraphs | None = None
        if record is not None:
            self.graphs = DecodeGraphs(
                self._run,
                record,
                device=self._device,
                page_size=chosen.page_size,
                max_pages=-(-chosen.context // chosen.page_size),
                spare=settings.num_pages,
            )
        self._logits = torch.empty((0, config.vocab_size), pin_memory=is_cuda)
        self._copies = torch.cuda.Stream(self._device) if is_cuda else None  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def forward(self, batch: StepBatch) -> Float32:
        slots = self._adapters.slots(batch.adapter)
        if self.graphs is not None and self.graphs.takes(batch):
            logits = self.graphs.forward(batch, slots, self._adapters.max_rank)
        else:
            inputs = StepInputs(Shape.of(batch), self._device)
            inputs.fill(batch, slots)
            logits = self._run(inputs)
        return self._to_host(logits)

    def read_page(self, page: int, into: Bytes) -> None:
        torch.from_numpy(into).view(len(self._memory), -1).copy_(self._bytes[:, page])

    def write_page(self, page: int, data: Bytes) -> None:
        self._bytes[:, page].copy_(torch.from_numpy(data).view(len(self._memory), -1))

    def write_adapter(self, adapter: PackedLora, pages: Sequence[int]) -> None:
        """On a stream of its own, so that a step beside it goes on."""
        with torch.cuda.stream(self._copies) if self._copies else nullcontext():
            sides, block = len(self._memory), self._adapters.pool.block
            flat = np.zeros((len(pages), sides, block), np.float32)
            flat.reshape(-1)[: len(adapter.flat)] = adapter.flat
            to = self._floats.view(sides, -1, block)
            for page, values in zip(pages, torch.from_numpy(flat)):
                to[:, page].copy_(values)
        if self._copies is not None:
            self._copies.synchronize()

    def set_adapter(
        self, index: int, adapter: PackedLora, pages: Sequence[int] | None = None
    ) -> None:
        if self._arena is not None:
            blocks = self._arena.put(index, adapter)
            self._adapters.memory = self._arena.memory
        elif pages is None:
            raise BackendError("with engine.adapter_paging an adapter is computed from its pages.")
        else:
            side = np.arange(len(self._memory), dtype=np.int64)
            place = side[None, :] * self._memory.shape[1] + np.array(pages, np.int64)[:, None]
            blocks = place.reshape(-1) * self._adapters.pool.block
        self._adapters.set(index, adapter, blocks)
        self._forget_moved()

    def drop_adapter(self, index: int) -> None:
        self._adapters.drop(index)
        if self._arena is not None:
            self._arena.drop(index)

    def set_weights(self, weights: ModelWeights) -> None:
        if not self.network.set_weights(weights) and self.graphs is not None:
            self.graphs.clear()

    def read_weight(self, name: str, count: int) -> Float32:
        return self.network.read_weight(name, count)

    def set_num_threads(self, num_threads: int) -> None:
        torch.set_num_threads(num_threads)

    def watch(self, on_lost: Callable[[Exception], None]) -> None:
        """Nothing that this executor needs can be lost."""

    def close(self) -> None:
        if self.graphs is not None:
            self.graphs.clear()

    # -- internals -----------------------------------------------------------

    def _make_pages(self, settings: Resolved, num_layers: int, head: tuple[int, int]) -> None:
        chosen = settings.config
        shape = (chosen.page_size, *head)
        size = (COPIES * num_layers, settings.num_pages + 1, int(np.prod(shape)))
        dtype = getattr(torch, chosen.kv_dtype)
        self._memory = torch.zeros(size, dtype=dtype, device=self._device)
        self._bytes = self._memory.view(torch.uint8)
        sides = [side.view(-1, *shape) for side in self._memory]
        self._pages = [Pages(k, v) for k, v in zip(sides[::COPIES], sides[1::COPIES])]
        self.page_bytes = settings.page_bytes

    def _run(self, inputs: StepInputs) -> Tensor:
        pool = self._adapters.pool if inputs.has_adapters else None
        return self.network.forward(inputs, self._pages, pool)

    def _to_host(self, logits: Tensor) -> Float32:
        """Waits for the step. The memory is taken again by the next one."""
        if len(logits) > len(self._logits):
            pinned = self._device.type == "cuda"
            self._logits = torch.empty(logits.shape, pin_memory=pinned)
        to = self._logits[: len(logits)].copy_(logits)
        found: Float32 = to.numpy()
        return found

    def _forget_moved(self) -> None:
        """Graphs read what lay where it no longer lies."""
        moves = self._adapters.moves + (self._arena.moves if self._arena else 0)
        if moves != self._moves and self.graphs is not None:
            self.graphs.clear()
        self._moves = moves


def _try_kernels(device: torch.device) -> None:
    """Triton compiles at the first launch, for which it needs a driver and a C compiler: better
    now than under the first request."""
    ones = torch.ones((1, 16), device=device)
    try:
        found = rms_norm(ones, ones[0], 0.0)
    except Exception as error:
        raise ConfigError(
            f"engine.executor is 'triton', but its kernels do not run here: {error}. Set executor "
            "to 'torch'."
        ) from error
    if not torch.equal(found, ones):
        raise ConfigError(
            "engine.executor is 'triton', but its kernels compute wrong numbers here; set executor "
            "to 'torch'."
        )
