"""The documents: a run's curves, the rollouts of a step, one rollout.

overview(run_dir, rollouts) -> html
step_page(run_dir, step, rollouts, found) -> html
rollout_page(...) -> html
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from evolute.dashboard.model_loop import accuracy, agreement, failures, training
from evolute.dashboard.page import Cell, Raw, note, number, page, section, table
from evolute.dashboard.run import read_run
from evolute.dashboard.training.entries import Entry
from evolute.dashboard.training.tokens import STYLE
from evolute.types import Rollout

REFRESH_S = 5
MAX_ANSWER = 200  # characters of one in a list


def overview(run_dir: Path, steps: Sequence[int], *, is_going_on: bool) -> str:
    """Curves as in the report, and the way to each step's rollouts. Loads itself anew while the
    run goes on."""
    run = read_run(run_dir)
    fresh = f'<meta http-equiv="refresh" content="{REFRESH_S}">' if is_going_on else ""
    state = "is going on; this page loads itself anew" if is_going_on else "is not going on now"
    links = " ".join(f'<a href="run/steps/{step}">{step}</a>' for step in reversed(steps))
    lists = section("Rollouts", f"<p>Of step {links}</p>" if steps else note("None yet."))
    parts = (accuracy(run), training(run), agreement(run), failures(run))
    head = f"<h1>Run {html.escape(run.name)}</h1>{note(f'The run {state}.')}"
    return page(f"Run {run.name}", [fresh, f"<style>{STYLE}</style>", head, lists, *parts])


def step_page(
    step: int,
    entries: Sequence[Entry],
    texts: Mapping[tuple[int, int], str],
    earned: Mapping[tuple[int, int], float],
    others: Sequence[int],
    reason: str,
) -> str:
    """All rollouts of a step, group by group; `earned` is the advantage of a rollout's samples."""
    parts = [_head(f"Rollouts of step {step}", _neighbours(step, others))]
    if reason:
        parts.append(note(f"Advantages are not shown: {reason}"))
    groups: dict[int, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.group, []).append(entry)
    for group, members in groups.items():
        mean = sum(m.reward for m in members) / len(members)
        title = f"Group {group}: {members[0].problem_id}"
        told = note(f"{len(members)} rollouts, mean reward {mean:.3g}.")
        parts.append(section(title[:160], told, _members(members, texts, earned)))
    return page(f"Rollouts of step {step}", [f"<style>{STYLE}</style>", *parts])


def rollout_page(
    entry: Entry, rollout: Rollout, samples: Sequence[str], siblings: Sequence[Entry], reason: str
) -> str:
    """One rollout: what is known of it, and each of its samples as tokens."""
    title = f"Step {entry.step}, group {entry.group}, rollout {entry.index}"
    facts: list[list[Cell]] = [
        ["problem", rollout.problem_id],
        ["reward", number(rollout.reward, ".4g")],
        ["ended", rollout.failure or str(rollout.outcome)],
        ["weights", ", ".join(map(str, entry.versions)) or "-"],
    ]
    facts += [[name, number(value, ".4g")] for name, value in sorted(rollout.metrics.items())]
    facts += [[name, str(value)] for name, value in sorted(rollout.metadata.items()) if value]
    links = " ".join(
        f'<a href="{e.index}">{e.index}</a>' for e in siblings if e.index != entry.index
    )
    back = f'<nav><a href="../../{entry.step}">all of step {entry.step}</a> siblings: {links}</nav>'
    parts = [_head(title, back), table(["what", "value"], facts)]
    if reason:
        parts.append(note(f"Advantages are not shown: {reason}"))
    many = len(samples) > 1
    for place, sample in enumerate(samples, 1):
        parts.append(section(f"Sample {place} of {len(samples)}" if many else "Text", sample))
    if not samples:
        parts.append(note("It ended before the model had said anything."))
    return page(title, [f"<style>{STYLE}</style>", *parts])


# -- internals ---------------------------------------------------------------


def _head(title: str, nav: str) -> str:
    return f"<h1>{html.escape(title)}</h1>{nav}"


def _neighbours(step: int, steps: Sequence[int]) -> str:
    before = [s for s in steps if s < step][-1:]
    after = [s for s in steps if s > step][:1]
    links = [f'<a href="{s}">step {s}</a>' for s in (*before, *after)]
    return f'<nav><a href="../../run">the run</a> {" ".join(links)}</nav>'


def _members(
    members: Sequence[Entry],
    texts: Mapping[tuple[int, int], str],
    earned: Mapping[tuple[int, int], float],
) -> str:
    rows: list[list[Cell]] = []
    for one in members:
        who = (one.group, one.index)
        text = texts.get(who, "")
        link = f'<a href="{one.step}/{one.group}/{one.index}">read</a>'
        rows.append(
            [
                one.index,
                one.reward,
                earned.get(who),
                one.failure or one.outcome,
                one.num_tokens,
                ", ".join(map(str, one.versions)),
                text[:MAX_ANSWER] + (" ..." if len(text) > MAX_ANSWER else ""),
                Raw(link),
            ]
        )
    head = ["rollout", "reward", "advantage", "ended", "tokens", "weights", "answer", ""]
    return table(head, rows)
