"""Putting an engine together: settings, executor, sampler, grammars.

This is the one file that knows which executors there are.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec

from evolute.engine.config import EngineConfig, Resolved, resolve
from evolute.engine.core import EngineCore
from evolute.engine.execution.batch import Executor
from evolute.engine.execution.sampler import Chosen, Float32, NotANumber, Row, choose
from evolute.engine.execution.torch_executor import TorchExecutor
from evolute.grammar import GrammarCompiler
from evolute.models import LoadedModel

logger = logging.getLogger(__name__)


def build_core(model: LoadedModel, config: EngineConfig, *, cores: int) -> EngineCore:
    """An engine core for a loaded model. Raises ConfigError when the settings cannot work."""
    has_native = find_spec("evolute.kernels._native") is not None
    settings = resolve(config, model.config, cores=cores, has_native=has_native)
    executor = _executor(model, settings)
    logger.info("engine: %s, %d pages", settings.config, settings.num_pages)
    return EngineCore(
        settings,
        executor,
        choose_rows,
        model.tokenizer,
        GrammarCompiler(model.tokenizer),
        model.config.vocab_size,
    )


def _executor(model: LoadedModel, settings: Resolved) -> Executor:
    if settings.config.executor == "torch":
        return TorchExecutor(model, settings)
    from evolute.engine.execution.native_executor import NativeExecutor

    return NativeExecutor(model, settings)


def choose_rows(logits: Float32, rows: list[Row]) -> list[Chosen | None]:
    """The plain sampler, row by row; None where a row cannot be sampled: it alone is lost."""
    chosen: list[Chosen | None] = []
    for one, row in zip(logits, rows):
        try:
            chosen.append(choose(one, row))
        except NotANumber:
            chosen.append(None)
        except Exception:
            logger.exception("a row could not be sampled")
            chosen.append(None)
    return chosen
