"""The system loop in a report: what tuning gained, every trial, and how the users fared."""

from __future__ import annotations

import html
import json

from evolute.dashboard.page import Cell, Raw, note, number, section, table
from evolute.dashboard.plots import Interval, intervals
from evolute.dashboard.run import Record, Run, interval, real

COLOUR = {"keep": "good", "cheat": "bad", "crash": "bad"}
MAX_GAP_S = 5.0


def tuning(run: Run) -> str:
    """Throughput before and after, and the ledger."""
    if not run.trials:
        return section("Tuning", note("No trial has been made."))
    rows: list[list[Cell]] = [
        [
            t.get("id"),
            t.get("parent"),
            t.get("proposer"),
            _change(t),
            _ratio(t),
            _verdict(t),
            t.get("why"),
            number(t.get("seconds"), ".0f"),
        ]
        for t in run.trials
    ]
    head = ["trial", "against", "proposer", "change", "ratio", "verdict", "why", "seconds"]
    measured = [i for t in run.trials if (i := _measured(t))]
    return section(
        "Tuning",
        _outcome(run),
        intervals("speed over what it was compared with, 95 % interval", measured, mark=1.0),
        table(head, rows),
        note(
            "A change is kept when its answers are the same tokens and the whole interval lies "
            "above the noise. One pair without an interval: too slow to be measured again."
        ),
    )


def ratio_text(value: Interval) -> str:
    return f"{value.mean:.2f} times ({value.low:.2f} to {value.high:.2f})"


def availability(run: Run) -> str:
    """What a user saw who asked once a second, in the process that finished each phase."""
    polls = run.records_by_kind.get("poll", ())
    if not polls:
        return section("Users meanwhile", note("Nobody asked, or the run was killed."))
    rows: list[list[Cell]] = [
        [
            p.get("during") or i + 1,
            p.get("requests"),
            p.get("errors"),
            number(p.get("max_gap_s"), ".1f"),
            p.get("last_error") or "-",
        ]
        for i, p in enumerate(polls)
    ]
    fine = all(not p.get("errors") and (real(p, "max_gap_s") or 0) <= MAX_GAP_S for p in polls)
    word = (
        f'<b class="good">No error, and no gap above {MAX_GAP_S:g} s.</b>'
        if fine
        else f'<b class="bad">Errors, or gaps above {MAX_GAP_S:g} s.</b>'
    )
    head = ["phase", "requests", "errors", "longest gap (s)", "last error"]
    return section("Users meanwhile", f"<p>{word}</p>", table(head, rows))


# -- internals ---------------------------------------------------------------


def _outcome(run: Run) -> str:
    record = run.last("throughput")
    if not record:
        return note("Tuning has not finished.")
    best = record.get("best")
    text = _settings(best) if best else "the settings in force stay"
    gain = interval(record.get("ratio"), "ratio")
    speed = f" Throughput after over before: <b>{ratio_text(gain)}</b>." if gain else ""
    before, after = (real(record, f"{when}_tokens_per_s") for when in ("before", "after"))
    speeds = (
        f" Before: {before:,.0f} output tokens/s, after: {after:,.0f}."
        if before is not None and after is not None
        else ""
    )
    why = html.escape(str(record.get("why", "")))
    return f"<p>Outcome: <b>{html.escape(text)}</b> ({why}).{speed}{speeds}{_force(record)}</p>"


def _force(record: Record) -> str:
    """Which settings the live engine took, and which need a restart, as lines of config.toml."""
    applied, waiting = _settings(record.get("applied")), record.get("needs_restart")
    said = f" In force at once: {html.escape(applied)}." if applied else ""
    if not isinstance(waiting, dict) or not waiting:
        return said
    lines = "\n".join(["[engine]", *(f"{k} = {json.dumps(v)}" for k, v in waiting.items())])
    return f"{said} The rest needs a restart with</p><pre>{html.escape(lines)}</pre><p>"


def _change(trial: Record) -> str:
    return _settings(trial.get("change")) or "-"


def _settings(change: object) -> str:
    if not isinstance(change, dict):
        return ""
    return ", ".join(f"{name} = {value}" for name, value in change.items())


def _ratio(trial: Record) -> str:
    value = interval(trial.get("ratio"), "ratio")
    if value is None:
        return "-"
    is_single = trial["ratio"].get("n") == 1
    return f"{value.mean:.2f} (one pair)" if is_single else ratio_text(value)


def _measured(trial: Record) -> Interval | None:
    """The trial's ratio; one pair has no interval."""
    value = interval(trial.get("ratio"), f"trial {trial.get('id')}")
    if value is None or trial["ratio"].get("n") != 1:
        return value
    return Interval(value.name, value.mean, value.mean, value.mean)


def _verdict(trial: Record) -> Raw:
    verdict = str(trial.get("verdict", "-"))
    return Raw(f'<b class="{COLOUR.get(verdict, "note")}">{html.escape(verdict)}</b>')
