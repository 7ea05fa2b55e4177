"""Problems of a file of rows, as skyrl-train's data sets have them.

read_rows(path) -> [row, ...]               JSON lines, checked
draw_rows(rows, split, count, seed)         of a split by the hash of the prompt
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evolute.envs.base import split_of
from evolute.types import ConfigError, Message, Problem

Row = Mapping[str, Any]


def read_rows(path: str) -> list[Row]:
    """One JSON object a line; each has `prompt`, a text or chat messages. Raises ConfigError."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the rows of a task cannot be read from {path!r}: {error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            messages_of(row)
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"{path}, line {number}: {error!r}; a row is a JSON object with `prompt`, a text "
                "or a list of {role, content}."
            ) from error
        rows.append(row)
    if not rows:
        raise ConfigError(f"{path} has no rows; a task needs at least one.")
    return rows


def messages_of(row: Row) -> tuple[Message, ...]:
    prompt = row["prompt"]
    if isinstance(prompt, str):
        return ({"role": "user", "content": prompt},)
    messages: list[Message] = [{"role": m["role"], "content": m["content"]} for m in prompt]
    if not messages or not all(isinstance(v, str) for m in messages for v in m.values()):
        raise ValueError("the prompt is no chat of texts")
    return tuple(messages)


def draw_rows(name: str, rows: Sequence[Row], split: str, count: int, seed: int) -> list[Problem]:
    """Different prompts of the split, shuffled by the seed. Raises ConfigError for too few."""
    found: dict[str, Problem] = {}
    for row in rows:
        text = json.dumps(row["prompt"], ensure_ascii=False, sort_keys=True)
        if split_of(text) == split and text not in found:
            found[text] = Problem(text, messages_of(row), _gold(row), {"row": row})
    if len(found) < count:
        raise ConfigError(
            f"task {name!r} has only {len(found)} problems in split {split!r}, {count} were asked "
            "for; ask for fewer, or add rows (a hash of the prompt gives a fifth to heldout)."
        )
    drawn = list(found.values())
    random.Random(f"{name}/{split}/{seed}").shuffle(drawn)
    return drawn[:count]


def _gold(row: Row) -> str:
    """An action that earns the full reward, where the row has one under `gold`; else what its
    grader compares with."""
    truth = (row.get("reward_spec") or row.get("reward_model") or {}).get("ground_truth", "")
    return str(row.get("gold", truth))
