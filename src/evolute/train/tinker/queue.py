"""Requests of models that wait for the thread that trains.

    queue.add(future), queue.take(timeout) -> items, queue.done(model_id, seq)
    queue.pause(model_id), resume(model_id), drop(ids), close()

What is next is decided by `schedule.choose`; what waits here is in the database as well.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict

from evolute.train.tinker.records import Future
from evolute.train.tinker.schedule import BETWEEN, Choice, Item, Rules, choose

IDLE_S = 1.0  # between looks, so that nothing hangs on a lost signal


class Queue:
    """Used from several threads; `take` from one."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._changed = threading.Condition()
        self._items: dict[str, list[Item]] = defaultdict(list)
        self._top: dict[str, float] = defaultdict(float)
        self._progress: dict[str, int] = {}
        self._served: dict[str, int] = {}
        self._paused: set[str] = set()
        self._turn = 0
        self.is_closed = False

    def add(self, future: Future) -> None:
        assert future.model_id is not None
        with self._changed:
            model_id, top = future.model_id, self._top[future.model_id]
            place = top + BETWEEN if future.seq is None else float(future.seq)
            self._top[model_id] = max(top, place)
            now = time.monotonic()
            item = Item(future.id, model_id, future.kind, future.seq, place, now)
            self._items[model_id].append(item)
            self._changed.notify_all()

    def take(self) -> tuple[Item, ...]:
        """Waits until there is something to do; empty when the queue is closed."""
        with self._changed:
            while not self.is_closed:
                choice = self._choose()
                if choice.items:
                    return self._serve(choice)
                wait_s = IDLE_S if choice.wait_s is None else min(choice.wait_s, IDLE_S)
                self._changed.wait(max(wait_s, 1e-3))
        return ()

    def progress(self, model_id: str, seq: int) -> None:
        """All requests of the model up to `seq` are done, or will not come."""
        with self._changed:
            self._progress[model_id] = max(self._progress.get(model_id, 0), seq)

    def pause(self, model_id: str) -> None:
        with self._changed:
            self._paused.add(model_id)

    def resume(self, model_id: str) -> None:
        with self._changed:
            self._paused.discard(model_id)
            self._changed.notify_all()

    def is_paused(self, model_id: str | None) -> bool:
        return model_id in self._paused

    def drop(self, ids: set[str]) -> None:
        with self._changed:
            for model_id in list(self._items):
                self._items[model_id] = [i for i in self._items[model_id] if i.id not in ids]

    def close(self) -> None:
        with self._changed:
            self.is_closed = True
            self._changed.notify_all()

    # -- internals ---------------------------------------------------------------

    def _choose(self) -> Choice:
        now = time.monotonic()
        return choose(self._items, self._progress, self._served, self._paused, now, self._rules)

    def _serve(self, choice: Choice) -> tuple[Item, ...]:
        model_id, taken = choice.items[0].model_id, {item.id for item in choice.items}
        self._items[model_id] = [i for i in self._items[model_id] if i.id not in taken]
        if not self._items[model_id]:
            del self._items[model_id]
        self._turn += 1
        self._served[model_id] = self._turn
        return choice.items
