"""report.html: what a run did, in one file that needs nothing else.

    write_report(run_dir) -> Path

Reads config.toml, metrics.jsonl, ledger.jsonl and samples.jsonl; what an interrupted run does
not have yet is said, not invented.
"""

from __future__ import annotations

import html
import os
import platform
import time
from importlib import metadata
from pathlib import Path

from evolute.dashboard.model_loop import (
    accuracy,
    agreement,
    failures,
    percent,
    points,
    samples,
    training,
)
from evolute.dashboard.page import Cell, anchor, note, page, section, table
from evolute.dashboard.plots import bars
from evolute.dashboard.run import Run, interval, read_run, real
from evolute.dashboard.system_loop import availability, ratio_text, tuning

PACKAGES = ("evolute", "torch", "tokenizers", "llguidance", "optuna")
PARTS = ("rollout_s", "update_s", "publish_s")
MAIN_SETTINGS = (  # where it lies in config.toml, and what people call it
    ("train.model", "model"),
    ("train.task", "task"),
    ("train.steps", "steps"),
    ("train.prompts_per_step", "problems a step"),
    ("train.samples_per_prompt", "rollouts a problem"),
    ("train.algorithm.advantage", "advantage"),
    ("train.algorithm.loss.name", "loss"),
    ("train.optimizer.lr", "learning rate"),
    ("train.lora.rank", "adapter rank"),
    ("train.seed", "seed"),
    ("engine.precision", "engine precision"),
    ("tune.trials", "tuning trials"),
)


def write_report(run_dir: Path) -> Path:
    """Write `run_dir/report.html` anew; a reader sees the old one or the new one, never half."""
    run = read_run(run_dir)
    sections = {
        "Summary": _summary(run),
        "Accuracy": accuracy(run),
        "Training": training(run),
        "Trainer and engine": agreement(run),
        "Tuning": tuning(run),
        "Users meanwhile": availability(run),
        "Samples": samples(run),
        "Failures": failures(run),
        "Time": _time(run),
        "Settings": _settings(run),
        "Environment": _environment(),
    }
    links = "".join(
        f'<a href="#{anchor(name)}">{name}</a>' for name, text in sections.items() if text
    )
    title = f"Run {run.name}"
    head = f"<h1>{html.escape(title)}</h1><nav>{links}</nav>"
    path = run_dir / "report.html"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(page(title, [head, *sections.values()]), encoding="utf-8")
    os.replace(temporary, path)
    return path


# -- internals ---------------------------------------------------------------


def _summary(run: Run) -> str:
    left = run.missing_phases
    if run.config and "tune" not in run.config:
        left = []  # a training run alone has no phases
    state = (
        f'<p class="bad">Not finished: {", ".join(left)} still to be done. Go on with '
        f"<code>evolute loop --resume {html.escape(run.name)}</code></p>"
        if left
        else ""
    )
    tiles = "".join(
        '<div class="tile"><span>{2}</span><b>{0}</b><span>{1}</span></div>'.format(
            *map(html.escape, headline)
        )
        for headline in _headlines(run)
    )
    rows: list[list[Cell]] = [
        [name, str(value)] for key, name in MAIN_SETTINGS if (value := _setting(run, key)) != ""
    ]
    repeat = f"evolute loop --config runs/{run.name}/config.toml --name {run.name}-again"
    return section(
        "Summary",
        state,
        f'<div class="tiles">{tiles}</div>' if tiles else note("No phase has finished."),
        table(["setting", "value"], rows),
        f"<p>To repeat it:</p><pre>{html.escape(repeat)}</pre>",
    )


def _headlines(run: Run) -> list[tuple[str, str, str]]:
    """What a reader wants first, (value, interval, name); only what was measured."""
    found = []
    for name in ("base", "trained"):
        value = interval(run.eval_by_name.get(name), name)
        if value:
            found.append((*_split(percent(value)), f"held-out accuracy, {name}"))
    gain = interval(run.last("difference"), "gain")
    if gain:
        found.append((*_split(points(gain)), "trained minus base"))
    speed = interval(run.last("throughput").get("ratio"), "speed")
    if speed:
        found.append((*_split(ratio_text(speed)), "throughput after tuning"))
    polls = run.records_by_kind.get("poll", ())
    if polls:
        requests, errors = (sum(int(p.get(k) or 0) for p in polls) for k in ("requests", "errors"))
        found.append((f"{errors} errors", f"in {requests} requests", "users meanwhile"))
    return found


def _split(text: str) -> tuple[str, str]:
    """ "17% (12% to 25%)" as the value and its interval."""
    value, _, rest = text.partition(" (")
    return value, f"95 %: {rest.rstrip(')')}"


def _time(run: Run) -> str:
    parts = {part.removesuffix("_s"): sum(real(s, part) or 0 for s in run.steps) for part in PARTS}
    plots = bars("phases", run.seconds_by_phase)
    plots += bars("inside the training steps", parts) if run.steps else ""
    return section("Time", f'<div class="plots">{plots}</div>' if plots else note("Nothing yet."))


def _settings(run: Run) -> str:
    if not run.config_text:
        return section("Settings", note("config.toml is missing."))
    return section("Settings", f"<pre>{html.escape(run.config_text)}</pre>")


def _setting(run: Run, key: str) -> object:
    """A value of config.toml; a training run's file has no [train] section around it."""
    for path in (key.split("."), key.split(".")[1:]):
        value: object = run.config
        for name in path:
            value = value.get(name, "") if isinstance(value, dict) else ""
        if value != "":
            return value
    return ""


def _environment() -> str:
    rows: list[list[Cell]] = [
        ["report written", time.strftime("%Y-%m-%d %H:%M:%S %z")],
        ["machine", f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"],
        ["python", platform.python_version()],
    ]
    rows += [[name, _version(name)] for name in PACKAGES]
    return section("Environment", table(["what", "value"], rows))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
