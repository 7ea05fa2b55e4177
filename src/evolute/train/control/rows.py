"""Which problem is played next? The oldest that was given back, else the next of the stream.

rows = Rows(next=0)
rows.draw() -> Row
rows.give_back(row)                  it is drawn again before any later one
restore(entries, records, size)      what a killed run had, after its last counted step
unused(entries, records)             the same for schedules that play a step as a whole
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evolute.train.control.groups import Key, Row
from evolute.train.control.pending import Entry
from evolute.types import Rollout


@dataclass(slots=True)
class Rows:
    """Rows in the order of their numbers, each out once until it is given back."""

    next: int = 0
    _back: list[Key] = field(default_factory=list)

    def draw(self) -> Row:
        if self._back:
            return Row(*heapq.heappop(self._back))
        self.next += 1
        return Row(self.next - 1)

    def give_back(self, row: Row) -> None:
        heapq.heappush(self._back, row.key)


@dataclass(slots=True)
class Played:
    """Rollouts of a row's attempt that are finished, by index, and the tag of its first begin."""

    tag: int
    rollouts: dict[int, Rollout] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Restored:
    """A run's state after its last counted step."""

    rows: Rows
    finished: list[Row]  # whole groups that wait for the trainer, in the order of their ends
    played: dict[Key, Played]  # theirs, and what there is of groups that must be played on
    num_used: int = 0  # rows that were trained
    num_dropped: int = 0  # groups that were dropped or sent back


def restore(entries: Sequence[Entry], records: Iterable[Mapping[str, Any]], size: int) -> Restored:
    """`records` are the counted steps': lists `used`, `dropped` and `requeued` of [row, attempt].
    A group has `size` rollouts. Rows that were drawn and are nowhere are given back."""
    done: set[int] = set()
    attempts: dict[int, int] = defaultdict(int)  # the row's present one
    num_used = num_dropped = 0
    for record in records:
        num_used += len(record["used"])
        num_dropped += len(record["dropped"]) + len(record["requeued"])
        done |= {row for row, _ in (*record["used"], *record["dropped"])}
        for row, attempt in record["requeued"]:
            attempts[row] = attempt + 1
    played: dict[Key, Played] = {}
    finished: list[Row] = []
    for entry in entries:
        if entry.row in done or entry.attempt != attempts[entry.row]:
            continue
        group = played.setdefault(entry.key, Played(entry.tag))
        group.rollouts[entry.rollout.index] = entry.rollout
        if len(group.rollouts) == size:
            finished.append(Row(*entry.key))
    numbers = {*done, *attempts, *(entry.row for entry in entries)}
    rows = Rows(max(numbers, default=-1) + 1)
    waiting = {row.number for row in finished}
    for number in range(rows.next):
        if number not in done and number not in waiting:
            rows.give_back(Row(number, attempts[number]))
    return Restored(rows, finished, played, num_used, num_dropped)


def unused(entries: Sequence[Entry], records: Iterable[Mapping[str, Any]]) -> dict[Key, Played]:
    """Finished rollouts of rows that no counted step has used."""
    used = {tuple(key) for record in records for key in record["used"]}
    played: dict[Key, Played] = {}
    for entry in entries:
        if entry.key not in used:
            group = played.setdefault(entry.key, Played(entry.tag))
            group.rollouts[entry.rollout.index] = entry.rollout
    return played
