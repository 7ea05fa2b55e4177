"""report.html: what a run did, in one file that needs nothing else.

    write_report(run_dir) -> Path

Reads config.toml, metrics.jsonl, ledger.jsonl and samples.jsonl; what an interrupted run does
not have yet is said, not invented.
"""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import Any

from evolute.dashboard.plots import accuracy_bars, curve
from evolute.telemetry import read_records

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color:#1a1a1a;background:#fff}table{border-collapse:collapse;width:100%;font-size:13px}
td,th{border-bottom:1px solid #ddd;padding:.3rem .5rem;text-align:left;vertical-align:top}
pre{background:#f5f5f5;padding:.6rem;overflow:auto;white-space:pre-wrap}h2{margin-top:2.2rem}
figure{margin:1rem 0}svg{max-width:100%;height:auto}.note{color:#666}
"""
Records = list[dict[str, Any]]


def write_report(run_dir: Path) -> Path:
    """Write `run_dir/report.html` anew; replaces it at once."""
    records = read_records(run_dir / "metrics.jsonl")
    by_kind: dict[str, Records] = {}
    for record in records:
        by_kind.setdefault(record["kind"], []).append(record)
    parts = [
        f"<h1>Run {html.escape(run_dir.name)}</h1>",
        _summary(run_dir, by_kind),
        _accuracy(by_kind),
        _training(by_kind.get("train_step", [])),
        _tuning(by_kind.get("throughput", []), read_records(run_dir / "ledger.jsonl")),
        _samples(read_records(run_dir / "samples.jsonl")),
        _settings(run_dir),
    ]
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport "
        f'content="width=device-width"><title>{html.escape(run_dir.name)}</title>'
        f"<style>{STYLE}</style><body>{''.join(parts)}</body></html>"
    )
    path = run_dir / "report.html"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(page)
    os.replace(temporary, path)
    return path


# -- internals ---------------------------------------------------------------


def _summary(run_dir: Path, by_kind: dict[str, Records]) -> str:
    rows = []
    for record in by_kind.get("difference", [])[-1:]:
        rows.append(["gain in held-out accuracy", _interval(record)])
    for record in by_kind.get("poll", [])[-1:]:
        rows.append(
            [
                "a user asking every second",
                f"{record['requests']} requests, {record['errors']} errors, longest gap "
                f"{record['max_gap_s']:.1f} s",
            ]
        )
    rows += [[f"phase {r['name']}", f"{r['seconds']:.0f} s"] for r in by_kind.get("phase", [])]
    command = f"evolute loop --config runs/{html.escape(run_dir.name)}/config.toml"
    table = _table(["what", "value"], rows) if rows else _missing("no phase has finished")
    return f"<h2>Summary</h2>{table}<p>To repeat it: <code>{command}</code></p>"


def _accuracy(by_kind: dict[str, Records]) -> str:
    evals = {record["name"]: record for record in by_kind.get("eval", [])}
    if not evals:
        return "<h2>Accuracy</h2>" + _missing("not measured yet")
    rows = [[name, _interval(r), r["n"]] for name, r in evals.items()]
    table = _table(["weights", "held-out accuracy (95 % interval)", "problems"], rows)
    return f"<h2>Accuracy</h2>{accuracy_bars(list(evals.values()))}{table}"


def _training(steps: Records) -> str:
    if not steps:
        return "<h2>Training</h2>" + _missing("no step has finished")
    plots = [
        curve(steps, ["accuracy_mean"], "accuracy of the rollouts"),
        curve(steps, ["mismatch_kl", "logprob_abs_diff_mean"], "trainer against engine"),
        curve(steps, ["entropy"], "entropy (nats)"),
        curve(steps, ["rollout_s", "update_s", "publish_s"], "seconds"),
    ]
    head = ["step", "accuracy", "mismatch KL", "|dlogp|", "canary", "version", "fingerprint"]
    rows = [
        [
            s["step"],
            f"{s['accuracy_mean']:.3f}",
            f"{s['mismatch_kl']:.1e}",
            f"{s['logprob_abs_diff_mean']:.1e}",
            f"{s['canary_abs_diff']:.1e}",
            s["version"],
            str(s["fingerprint"])[:12],
        ]
        for s in steps
    ]
    return f"<h2>Training</h2>{''.join(plots)}<h3>Publications</h3>{_table(head, rows)}"


def _tuning(outcome: Records, ledger: Records) -> str:
    if not ledger:
        return "<h2>Tuning</h2>" + _missing("no trial was made")
    rows = [
        [
            t["id"],
            t["proposer"],
            t["change"] or "-",
            t["verdict"],
            t["why"],
            f"{t['seconds']:.0f} s",
        ]
        for t in ledger
    ]
    table = _table(["trial", "proposer", "change", "verdict", "why", "took"], rows)
    text = ""
    if outcome:
        best = outcome[-1]["best"] or "the settings in force stay"
        text = f"<p>Outcome: {html.escape(str(best))} ({html.escape(outcome[-1]['why'])}).</p>"
    return f"<h2>Tuning</h2>{text}{table}"


def _samples(samples: Records) -> str:
    if not samples:
        return ""
    shown = samples[:6] + samples[max(len(samples) - 6, 6) :]
    rows = [[s["step"], s["prompt"], s["text"], s["reward"], s["outcome"]] for s in shown]
    table = _table(["step", "problem", "answer", "reward", "outcome"], rows)
    return f"<h2>Samples, early and late</h2>{table}"


def _settings(run_dir: Path) -> str:
    file = run_dir / "config.toml"
    text = file.read_text() if file.exists() else "not recorded"
    return f"<h2>Settings</h2><pre>{html.escape(text)}</pre>"


def _interval(record: dict[str, Any]) -> str:
    return f"{record['mean']:.1%} ({record['low']:.1%} to {record['high']:.1%})"


def _missing(text: str) -> str:
    return f"<p class=note>{html.escape(text)}</p>"


def _table(head: list[str], rows: list[list[Any]]) -> str:
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{top}</tr>{body}</table>"
