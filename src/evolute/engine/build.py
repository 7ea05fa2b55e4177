"""Putting an engine together: settings, executor, sampler, grammars, second tier.

This is the one file that knows which executors and which tiers there are.
"""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec

from evolute.engine.config import EngineConfig, Resolved, resolve
from evolute.engine.core import EngineCore
from evolute.engine.execution.batch import Executor, PageMemory
from evolute.engine.execution.sampler import PlainSampler, Sampler
from evolute.engine.execution.tier_directory import TierDirectory
from evolute.engine.execution.tier_stores import DiskSlots, HostSlots
from evolute.engine.memory import Costs, SlotStore, Tier
from evolute.grammar import GrammarCompiler
from evolute.models import LoadedModel
from evolute.types import ConfigError

logger = logging.getLogger(__name__)


def build_core(model: LoadedModel, config: EngineConfig, *, cores: int) -> EngineCore:
    """An engine core for a loaded model. Raises ConfigError when the settings cannot work."""
    has_native = find_spec("evolute.kernels._native") is not None
    settings = resolve(
        config,
        model.config,
        cores=cores,
        has_native=has_native,
        triton_fault=_triton_fault(config),
    )
    executor, sampler = _executor(model, settings)
    logger.info("engine: %s, %d pages", settings.config, settings.num_pages)
    return EngineCore(
        settings,
        executor,
        sampler,
        model.tokenizer,
        GrammarCompiler(model.tokenizer),
        model.config.vocab_size,
        _tier(executor, settings),
    )


def _triton_fault(config: EngineConfig) -> str:
    """Why the Triton kernels cannot run here, and what to change; empty: they can. Looks no
    further than the settings need, as torch takes long to import."""
    if config.executor != "triton":
        return f"engine.executor is {config.executor!r}"
    is_interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if config.device == "cpu" and not is_interpreted:
        return (
            "engine.device is 'cpu', where its kernels run in Triton's interpreter only, for "
            "tests; set device = 'cuda', or executor to 'auto', or TRITON_INTERPRET=1 in the "
            "environment"
        )
    if find_spec("triton") is None:
        return "triton is not installed; run `pip install triton`, or set executor to 'torch'"
    if config.device == "cpu":
        return ""
    if is_interpreted:
        return "TRITON_INTERPRET is 1, which computes on the CPU; unset it, or set device = 'cpu'"
    import torch

    if not torch.cuda.is_available():
        return "torch finds no GPU here; set device = 'cpu' and executor to 'auto'"
    return ""


def _executor(model: LoadedModel, settings: Resolved) -> tuple[Executor, Sampler]:
    if settings.config.tensor_parallel > 1:
        from evolute.engine.execution.parallel.executor import ParallelExecutor

        return ParallelExecutor(model.config, model.weights, settings), PlainSampler()
    if settings.config.executor == "triton":
        from evolute.engine.execution.triton_executor import TritonExecutor

        return TritonExecutor(model, settings), PlainSampler()
    if settings.config.executor == "torch":
        from evolute.engine.execution.torch_executor import TorchExecutor

        return TorchExecutor(model.config, model.weights, settings), PlainSampler()
    from evolute.engine.execution.native_executor import NativeExecutor
    from evolute.engine.execution.native_sampler import NativeSampler

    executor = NativeExecutor(model, settings)
    is_native = settings.config.sampler == "native"
    return executor, NativeSampler(executor.decoder) if is_native else PlainSampler()


def _tier(executor: Executor, settings: Resolved) -> Tier:
    config, count = settings.config, settings.num_slots
    if not count:
        return Tier()
    assert isinstance(executor, PageMemory), "settings refuse a tier for all others"
    store: SlotStore
    if config.tier == "disk":
        directory = TierDirectory(count * executor.page_bytes, config.tier_dir)
        logger.info("second tier: %d pages in %s", count, directory.path)
        store = DiskSlots(executor, count, directory, config.tier_queue_mb)
    else:
        try:
            store = HostSlots(executor, count)
        except RuntimeError as error:
            raise ConfigError(
                f"engine.tier_mb is {config.tier_mb}, but the host does not give that much: "
                f"{error}. Lower it."
            ) from None
    step_pages = config.tier_step_mb * 2**20 // executor.page_bytes
    return Tier(store, Costs(config.tier_restore), step_pages)
