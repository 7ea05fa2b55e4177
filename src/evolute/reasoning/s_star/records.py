"""Candidates on disk: sampled once, chosen among by any policy.

    Records(path).get(id, key) -> Recorded | None
    Records(path).add(id, key, candidates, was_cut)

One JSON line a problem. Lines of other settings or models stay and are passed over; a line cut by a
crash counts as not written.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evolute.reasoning.s_star.generate import Candidate

_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Recorded:
    candidates: tuple[Candidate, ...]
    was_cut: bool  # the budget ended some thread


class Records:
    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._known: dict[str, Recorded] | None = None

    def get(self, problem: str, key: Mapping[str, Any]) -> Recorded | None:
        """What was sampled for the problem under the same settings. Raises OSError."""
        with _lock:
            return self._all().get(_name(problem, key))

    def add(
        self, problem: str, key: Mapping[str, Any], candidates: Sequence[Candidate], was_cut: bool
    ) -> None:
        line = {
            "id": problem,
            "key": dict(key),
            "was_cut": was_cut,
            "candidates": [asdict(one) for one in candidates],
        }
        with _lock:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a+b") as file:
                if file.tell() and not _ends_a_line(file):
                    file.write(b"\n")
                file.write(json.dumps(line).encode() + b"\n")
            self._all()[_name(problem, key)] = Recorded(tuple(candidates), was_cut)

    # -- internals ---------------------------------------------------------------

    def _all(self) -> dict[str, Recorded]:
        if self._known is None:
            self._known = {}
            text = self._path.read_text() if self._path.exists() else ""
            for line in text.splitlines():
                try:
                    told = json.loads(line)
                    found = tuple(Candidate(**one) for one in told["candidates"])
                    recorded = Recorded(found, bool(told["was_cut"]))
                    self._known[_name(told["id"], told["key"])] = recorded
                except (ValueError, TypeError, KeyError):
                    continue
        return self._known


def _name(problem: str, key: Mapping[str, Any]) -> str:
    return json.dumps([problem, key], sort_keys=True)


def _ends_a_line(file: Any) -> bool:
    file.seek(-1, 2)
    return bool(file.read(1) == b"\n")
