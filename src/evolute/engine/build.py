"""Putting an engine together: settings, executor, sampler, grammars, second tier.

This is the one file that knows which executors and which tiers there are.
"""

from __future__ import annotations

import logging
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
    settings = resolve(config, model.config, cores=cores, has_native=has_native)
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


def _executor(model: LoadedModel, settings: Resolved) -> tuple[Executor, Sampler]:
    if settings.config.tensor_parallel > 1:
        from evolute.engine.execution.parallel.executor import ParallelExecutor

        return ParallelExecutor(model.config, model.weights, settings), PlainSampler()
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
