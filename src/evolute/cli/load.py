"""`evolute bench serving` over HTTP: workload, servers and load put together.

run_load(load, model, workload, ...) -> exit code
"""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolute.cli.load_options import Load, seconds
from evolute.cli.options import emit, say
from evolute.types import ConfigError

if TYPE_CHECKING:
    from evolute.bench import BenchResult, WorkItem
    from evolute.bench.load import LoadPlan, LoadResult, ServerProcess

OWN = "evolute"
DEFAULT_MODEL, DEFAULT_VOCAB = "smollm2-135m", 32000
IN_FLIGHT = {"http": 32, "single": 1}  # without --concurrency and --rate; others: all at once
INTERRUPTED = 130


def run_load(
    load: Load,
    model: str | None,
    workload: str,
    overrides: Sequence[str],
    repeats: int,
    *,
    quick: bool,
    is_json: bool,
) -> int:
    """Prints and saves the result. 1 when nothing was answered, 130 when it was interrupted."""
    from evolute.bench.load import LoadOptions, Slo, load_test, own_server

    slo = Slo(*map(seconds, (load.slo_ttft_ms, load.slo_tpot_ms, load.slo_latency_ms)))
    options = LoadOptions(repeats, load.warmup, load.timeout_s, slo)
    _check_places(load.out, load.plot)
    if overrides and not load.http:
        raise ConfigError("--set is for our own server; add --http, or drop it.")
    if load.http:
        load.check_own()
    vocab_size = _vocab_size(load, model)
    work = _plan(load, workload, vocab_size, quick)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_ended_by_sigterm())
        targets, own = [], None
        if load.http:
            own = own_server(model or DEFAULT_MODEL, overrides, load.adapter or ())
            target = load.target(OWN, "http://127.0.0.1", "default")  # checked before it starts
            targets.append(replace(target, url=stack.enter_context(own).url))
        targets += [load.target(name, url, _served(load, model)) for name, url in load.urls()]
        done = load_test(
            targets,
            work,
            vocab_size=vocab_size,
            options=options,
            config=_config(load, workload, vocab_size),
            is_shown=not is_json,
        )
        result = _with_own(done.result, own, len(targets))
    return _deliver(load, replace(done, result=result), is_json=is_json)


# -- internals ---------------------------------------------------------------


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """So that our own server is stopped then too."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_places(*files: Path | None) -> None:
    """Before an hour of measuring."""
    for file in files:
        if file is not None and (not file.parent.is_dir() or file.is_dir()):
            raise ConfigError(f"{file} cannot be written; give a file in a folder that exists.")


def _served(load: Load, model: str | None) -> str:
    """The model's name in requests to --url; with --http, --model is our own server's."""
    return "" if load.http else model or ""


def _vocab_size(load: Load, model: str | None) -> int:
    if load.vocab_size is not None:
        if load.vocab_size < 32:
            raise ConfigError(f"--vocab-size is {load.vocab_size}; it must be at least 32.")
        return int(load.vocab_size)
    if not load.http:
        return DEFAULT_VOCAB
    from evolute.models import load_model

    return load_model(model or DEFAULT_MODEL).config.vocab_size


def _plan(load: Load, workload: str, vocab_size: int, quick: bool) -> LoadPlan:
    from evolute.bench.load import plan

    items = _items(load, workload, vocab_size, quick)
    concurrency = load.concurrency
    if concurrency is None and load.rate is None:
        concurrency = IN_FLIGHT.get(workload)
    return plan(
        items,
        concurrency=concurrency,
        rate=load.rate,
        cv=load.cv,
        speed=load.speed,
        requests=load.requests,
        seed=load.seed,
    )


def _items(load: Load, workload: str, vocab_size: int, quick: bool) -> list[WorkItem]:
    from evolute.bench import load_workload, make_workload

    if not workload.endswith(".jsonl"):
        scale = load.scale * (0.1 if quick else 1.0)
        return make_workload(workload, vocab_size, seed=load.seed, scale=scale)
    if load.scale != 1 or quick:
        raise ConfigError("a recording has its own size; use --requests N instead of a scale.")
    items = load_workload(Path(workload))
    highest = max(max(item.prompt, default=0) for item in items)
    if highest >= vocab_size:
        raise ConfigError(
            f"{workload} holds the token id {highest} and ids are to be below {vocab_size}; set "
            "--vocab-size to the model's."
        )
    return items


def _config(load: Load, workload: str, vocab_size: int) -> dict[str, Any]:
    names = ("rate", "cv", "speed", "seed", "scale")
    chosen = {name: load.values[name] for name in names}
    return {"workload": workload, "vocab_size": vocab_size, **chosen}


def _with_own(result: BenchResult, own: ServerProcess | None, num_targets: int) -> BenchResult:
    """With what only its parent can see of our own server."""
    if own is None:
        return result
    prefix = f"{OWN}/" if num_targets > 1 else ""
    found = {f"{prefix}start_s": own.start_s}
    peak = own.peak_rss_mb()
    if peak is not None:
        found[f"{prefix}peak_rss_mb"] = peak
    return replace(result, figures=result.figures | found)


def _deliver(load: Load, done: LoadResult, *, is_json: bool) -> int:
    from evolute.bench.load import text
    from evolute.cli.load_plots import load_page

    if load.out:
        load.out.write_text(json.dumps(asdict(done.result) | {"rounds": _records(done)}))
        say(f"saved {load.out}")
    if load.plot:
        load.plot.write_text(load_page(done))
        say(f"saved {load.plot}")
    if is_json:
        emit(asdict(done.result))
    else:
        print(text(done.result), flush=True)
    if done.is_interrupted:
        return INTERRUPTED
    has_answer = any(not r.error for rs in done.rounds.values() for one in rs for r in one.records)
    return 0 if has_answer else 1


def _records(done: LoadResult) -> dict[str, list[list[dict[str, Any]]]]:
    return {
        name: [[asdict(record) for record in one.records] for one in rounds]
        for name, rounds in done.rounds.items()
    }
