"""Which sampling does one gen get?

    RunSettings(...)                             what a run sets for all its gens
    sampling_of(gen, run, capabilities)          -> SamplingParams
    wants_logprobs(gen, run)                     whether its answer has to tell them

What a gen sets goes before what the run sets. A setting that the backend cannot honour raises
NotSupported before anything is sent.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from evolute.lang.backend import Capabilities
from evolute.lang.expressions import Gen, GenOptions
from evolute.types import NotSupported, SamplingParams

logger = logging.getLogger(__name__)

INT = r"[-+]?[0-9]+[ \n]*"
FLOAT = r"[-+]?[0-9]*\.?[0-9]+[ \n]*"
BOOL = r"(True|False)"
STRING = r'"[\w\d\s]*"'
DTYPES = {"int": INT, "float": FLOAT, "bool": BOOL, "str": STRING}
NUMBER_STOPS = (" ", "\n")
PLAIN = SamplingParams()


@dataclass(frozen=True, slots=True)
class RunSettings:
    """Defaults of every gen in a run. `seed` is ours: gen i of a stream draws by it and i."""

    max_new_tokens: int = 128
    n: int = 1
    stop: str | Sequence[str] | None = None
    stop_token_ids: Sequence[int] | None = None
    stop_regex: str | Sequence[str] | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    ignore_eos: bool = False
    return_logprob: bool | None = None
    logprob_start_len: int | None = None
    top_logprobs_num: int | None = None
    return_text_in_logprobs: bool | None = None
    seed: int | None = None


RUN_NAMES = frozenset(f.name for f in fields(RunSettings))


def sampling_of(
    gen: Gen, run: RunSettings, capabilities: Capabilities, seed: int | None = None
) -> SamplingParams:
    """Raises RequestError for values that cannot be, NotSupported for those that the backend
    does not honour."""
    options = gen.options
    top_k = _first(options.top_k, run.top_k)
    values: dict[str, Any] = {
        "max_new_tokens": _first(options.max_tokens, run.max_new_tokens),
        "min_new_tokens": _first(options.min_tokens, 0),
        "n": _first(options.n, run.n),
        "stop": _texts(_first(options.stop, run.stop)),
        "stop_token_ids": tuple(_first(options.stop_token_ids, run.stop_token_ids) or ()),
        "stop_regex": _texts(_first(options.stop_regex, run.stop_regex)),
        "temperature": _first(options.temperature, run.temperature),
        "top_p": _first(options.top_p, run.top_p),
        "top_k": max(0, top_k),  # SGLang's -1 is off
        "min_p": _first(options.min_p, run.min_p),
        "frequency_penalty": _first(options.frequency_penalty, run.frequency_penalty),
        "presence_penalty": _first(options.presence_penalty, run.presence_penalty),
        "ignore_eos": _first(options.ignore_eos, run.ignore_eos),
        "top_logprobs": _first(options.top_logprobs_num, run.top_logprobs_num) or 0,
        "seed": seed,
        "json_schema": options.json_schema,
    }
    values["regex"], stops = _form(options)
    values["stop"] = tuple(dict.fromkeys((*values["stop"], *stops)))
    sampling = SamplingParams(**values)
    check(sampling, capabilities)
    return sampling


def wants_logprobs(gen: Gen, run: RunSettings) -> bool:
    return bool(_first(gen.options.return_logprob, run.return_logprob))


def logprob_start(gen: Gen, run: RunSettings) -> int | None:
    """First prompt token whose log-probability is told; None: none of them."""
    start: int | None = _first(gen.options.logprob_start_len, run.logprob_start_len)
    return start if start is not None and start >= 0 and wants_logprobs(gen, run) else None


def check(sampling: SamplingParams, capabilities: Capabilities) -> None:
    """Raises NotSupported naming the settings that the backend does not honour."""
    honoured = capabilities.sampling
    if honoured is None:
        return
    lost = [
        f.name
        for f in fields(SamplingParams)
        if f.name not in honoured and getattr(sampling, f.name) != getattr(PLAIN, f.name)
    ]
    if lost:
        raise NotSupported(
            f"this endpoint has no {', '.join(lost)}; unset it, or use an Engine or "
            "RuntimeEndpoint, which have."
        )


# -- internals ---------------------------------------------------------------


def _first(own: Any, default: Any) -> Any:
    return default if own is None else own


def _texts(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """Empty texts stand for none, as in SGLang."""
    if isinstance(value, str):
        return (value,) if value else ()
    return tuple(value or ())


def _form(options: GenOptions) -> tuple[str | None, tuple[str, ...]]:
    """Regular expression and additional stops that a dtype stands for."""
    if options.dtype is None:
        return options.regex, ()
    name = options.dtype if isinstance(options.dtype, str) else options.dtype.__name__
    if name not in DTYPES:
        raise NotSupported(f"dtype {name!r} has no form; use {', '.join(DTYPES)}, or regex=.")
    if options.regex is not None:
        logger.warning("both dtype and regex are given; dtype %s is used.", name)
    return DTYPES[name], NUMBER_STOPS if name in ("int", "float") else ()
