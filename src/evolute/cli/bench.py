"""`evolute bench`: measure, and print one JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evolute.cli import load_options as o
from evolute.cli.options import Json, Set, emit, say, settings

if TYPE_CHECKING:
    from evolute.bench import BenchResult
    from evolute.engine import EngineConfig

app = typer.Typer(add_completion=False)
OWN_WORK = (
    *("adapters", "fairness", "training", "speculation", "generator", "radix", "routing"),
    *("soak", "thoughts", "tier", "sft", "demonstrations", "s_star", "grammar", "programs"),
    *("asynchrony", "dispatch"),
)
NAMES = ("serving", "replay", *OWN_WORK)
DEFAULT_MODEL = "smollm2-135m"

Name = Annotated[
    str,
    typer.Argument(
        help="serving: each workload, or one on a server; replay: one in the engine; "
        "training: rollouts and updates; adapters: many on one base; fairness: many tenants; "
        "speculation: one stream with and without guesses; generator: the load generator "
        "itself; radix: what the prefix cache finds and costs; tier: sessions that come back after "
        "the pool forgot them; thoughts: a memory of solved problems beside other methods; "
        "routing: simulated replicas under each router; soak: everything at random on a server, "
        "for --minutes; sft: supervised updates; demonstrations: which changes to traces a "
        "student feels; s_star: policies that choose among programs; grammar: answers with and "
        "without jump-forward; asynchrony: training while rollouts go on, beside one after the "
        "other; programs: those of evolute.lang.shapes, in every way to run them; "
        "dispatch: agents in sandboxes, pipeline of stages against bounded batch"
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="smollm2-135m (the default), tiny, a .gguf file or a directory; with --url alone the "
        "name in requests, by default the first that the server names"
    ),
]
Workload = Annotated[
    str | None,
    typer.Option(
        help="a shape such as batch, shared, single, chat, arrivals, http, sglang-..., vtc-..., "
        "slora-..., or a recorded .jsonl file; default: all for serving in the engine, http over "
        "HTTP, batch for replay; for programs: shapes with commas between, or many"
    ),
]
Quick = Annotated[bool, typer.Option(help="a tenth of the work")]
Minutes = Annotated[
    float | None, typer.Option(help="soak: how long; default 60, with --quick half a minute")
]
Keep = Annotated[
    Path | None,
    typer.Option(
        help="demonstrations: a folder where a run that was killed goes on, with a page of plots"
    ),
]
Variants = Annotated[
    str | None,
    typer.Option(
        help="comma-separated; demonstrations: changes to traces, by default fourteen of them; "
        "programs: ways to run them, by default all"
    ),
]
Paced = Annotated[bool, typer.Option(help="send each request at its moment, measure latencies")]


@app.command()
def bench(
    name: Name,
    model: Model = None,
    workload: Workload = None,
    paced: Paced = False,
    repeats: int = 1,
    quick: Quick = False,
    http: o.Http = False,
    url: o.Url = None,
    api_key: o.ApiKey = None,
    adapter: o.Adapter = None,
    concurrency: o.Concurrency = None,
    rate: o.Rate = None,
    cv: o.Cv = 1.0,
    speed: o.Speed = 1.0,
    requests: o.Requests = None,
    seed: o.Seed = 0,
    scale: o.Scale = 1.0,
    vocab_size: o.VocabSize = None,
    endpoint: o.Endpoint = "completions",
    prompts: o.Prompts = None,
    stream: o.Stream = True,
    ignore_eos: o.IgnoreEos = True,
    slo_ttft_ms: o.Slo = None,
    slo_tpot_ms: o.Slo = None,
    slo_latency_ms: o.Slo = None,
    warmup: o.Warmup = 1,
    timeout_s: o.TimeoutS = 600.0,
    out: o.Out = None,
    plot: o.Plot = None,
    minutes: Minutes = None,
    keep: Keep = None,
    variants: Variants = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Tokens a second, latencies, tokens computed, seconds of an update; digest of all outputs."""
    given, words = dict(locals()), set_ or []
    _for_people()
    load = o.Load({key: given[key] for key in o.USUAL})
    _check(name, workload, repeats, minutes, paced=paced)
    _refuse_elsewhere(name, keep, variants)
    if name == "serving" and load.is_wanted:
        from evolute.cli.load import run_load

        _check_load(words, paced=paced)
        code = run_load(load, model, workload or "http", words, repeats, quick=quick, is_json=json)
        raise typer.Exit(code)
    load.refuse_unused(name, besides=("seed",) if name == "soak" else ())
    if name == "soak":
        result = _soak(model, words, minutes, seed, quick=quick)
    elif name == "demonstrations":
        result = _demonstrations(model, words, repeats, keep, variants, quick=quick)
    else:
        ways = variants.split(",") if variants else ()
        result = _in_process(
            name, model, workload, words, repeats, quick=quick, paced=paced, ways=ways
        )
    _show(result, is_json=json)


# -- internals ---------------------------------------------------------------


def _for_people() -> None:
    """Long benches say how far they are, and one that is told to end stops what it has started."""
    import signal
    import threading

    from evolute.bench.told import show_on_stderr

    show_on_stderr()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def _check(
    name: str, workload: str | None, repeats: int, minutes: float | None, *, paced: bool
) -> None:
    from evolute.types import ConfigError
    from evolute.types.settings import nearest

    if name not in NAMES:
        raise ConfigError(f"no bench {name!r}. {nearest(name, NAMES)}")
    if name in OWN_WORK and ((workload and name != "programs") or paced):
        raise ConfigError(f"bench {name} makes its own work; drop --workload and --paced.")
    if repeats < 1:
        raise ConfigError(f"--repeats is {repeats}; it must be at least 1.")
    if minutes is not None and (name != "soak" or not 0 < minutes < 100_000):
        raise ConfigError(f"--minutes is {minutes:g}; it is for soak, and above 0.")
    if name == "soak" and repeats != 1:
        raise ConfigError(f"--repeats is {repeats}; a soak is one long run, see --minutes.")


def _check_load(words: list[str], *, paced: bool) -> None:
    """A mistake is told before anything starts."""
    from evolute.types import ConfigError

    if paced:
        raise ConfigError("--paced is for the engine; over HTTP recorded moments are kept.")
    _config(words)


def _refuse_elsewhere(name: str, keep: Path | None, variants: str | None) -> None:
    from evolute.types import ConfigError

    for option, value in (("--keep", keep), ("--variants", variants)):
        takes = {"--keep": ("demonstrations",), "--variants": ("demonstrations", "programs")}
        if value is not None and name not in takes[option]:
            raise ConfigError(f"{option} is for bench {' and '.join(takes[option])}; drop it.")


def _config(words: list[str]) -> EngineConfig:
    from evolute.engine import EngineConfig

    return settings(EngineConfig, [], words)


def _in_process(
    name: str,
    model: str | None,
    workload: str | None,
    words: list[str],
    repeats: int,
    *,
    quick: bool,
    paced: bool,
    ways: Sequence[str] = (),
) -> BenchResult:
    from evolute.bench import run_bench
    from evolute.types import ConfigError

    if name in ("generator", "dispatch") and (model or words):
        raise ConfigError(f"bench {name} runs no model; drop --model and --set.")
    config = _config(words)
    model = model or DEFAULT_MODEL
    if name == "programs":
        from evolute.bench.programs.bench import run

        shapes = workload.split(",") if workload else ()
        return run(quick, model=model, config=config, repeats=repeats, shapes=shapes, ways=ways)
    if name == "replay" or workload or paced:
        return _replay(model, workload or "batch", config, repeats, quick=quick, paced=paced)
    return run_bench(name, quick=quick, model=model, config=config, repeats=repeats)


def _demonstrations(
    model: str | None,
    words: list[str],
    repeats: int,
    keep: Path | None,
    variants: str | None,
    *,
    quick: bool,
) -> BenchResult:
    from evolute.bench.demonstrations.bench import FEW, run
    from evolute.types import ConfigError

    if model:
        raise ConfigError("bench demonstrations trains a student of its own; drop --model.")
    result = run(
        quick,
        config=_config(words) if words else None,
        repeats=repeats,
        variants=variants.split(",") if variants else FEW,
        keep=keep,
        on_result=say,
    )
    if keep:
        from evolute.cli.study_page import study_page

        (keep / "report.html").write_text(study_page(result))
        say(f"{keep / 'report.html'}: plots")
    return result


def _soak(
    model: str | None,
    words: list[str],
    minutes: float | None,
    seed: int,
    *,
    quick: bool,
) -> BenchResult:
    from evolute.bench.soak import run

    config = _config(words)
    return run(quick, model=model or "tiny", config=config, minutes=minutes, seed=seed)


def _replay(
    model: str, workload: str, config: EngineConfig, repeats: int, *, quick: bool, paced: bool
) -> BenchResult:
    from evolute.bench import load_workload, make_workload, replay
    from evolute.models import load_model

    loaded = load_model(model)
    if workload.endswith(".jsonl"):
        items = load_workload(Path(workload))
    else:
        items = make_workload(workload, loaded.config.vocab_size, scale=0.1 if quick else 1.0)
    return replay(loaded, items, config, repeats=repeats, paced=paced)


def _show(result: BenchResult, *, is_json: bool) -> None:
    from dataclasses import asdict

    if is_json:
        emit(asdict(result))
        return
    for key, value in result.figures.items():
        print(f"{key:32}{value:12.1f}" if value >= 1 else f"{key:32}{value:12.3g}")
    digest = f"digest {result.digest[:16]}, " if result.digest else ""
    say(f"{digest}n = {result.n}")
