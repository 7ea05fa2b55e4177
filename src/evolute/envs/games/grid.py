"""Cross a grid from S to G: walls stop a move, pits end the game.

    grid_task("grid?size=4&walls=20&pits=0&view=0&turns=6")

An answer is any number of moves (up, down, left, right), carried out up to the first that hits
something. With `view` only fields at most that far away are shown, so one must look around. The
reward is 1 at the goal, in time. `walls` and `pits` are percents.
"""

from __future__ import annotations

import random
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from evolute.envs.base import draw_problems
from evolute.envs.puzzles.task import between, read_options
from evolute.types import ConfigError, Env, Message, Problem, StepResult

FAMILY = "grid"
MOVES = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
FREE, WALL, PIT, START, GOAL, HIDDEN, HERE = ".", "#", "O", "S", "G", "?", "@"
TRIES = 2000
_MOVE = re.compile(r"\b(up|down|left|right)\b", re.IGNORECASE)
Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class GridTask:
    name: str
    size: int
    walls: int
    pits: int
    view: int
    turns: int

    @property
    def max_new_tokens(self) -> int:
        return 8 + 4 * self.size * 2

    def problems(self, split: str, count: int, seed: int = 0) -> list[Problem]:
        """`count` different grids of a split, the same for the same seed."""
        drawn = draw_problems(self.name, self._draw, split, count, seed)
        return [
            Problem(problem.id, self._ask(problem.id), problem.gold, {"grid": problem.id})
            for problem in drawn
        ]

    def make(self, problem: Problem) -> Env:
        rows = str(problem.extras.get("grid", "")).split("\n")
        if len(rows) != self.size or GOAL not in "".join(rows):
            raise ConfigError(f"problem {problem.id[:80]!r} is none of {self.name!r}.")
        return Grid(rows, self.view, self.turns)

    # -- internals ---------------------------------------------------------------

    def _draw(self, source: random.Random) -> tuple[str, str]:
        for _ in range(TRIES):
            kinds = source.choices(
                (WALL, PIT, FREE),
                (self.walls, self.pits, 100 - self.walls - self.pits),
                k=self.size**2,
            )
            start, goal = source.sample(range(self.size**2), 2)
            kinds[start], kinds[goal] = START, GOAL
            rows = ["".join(kinds[k : k + self.size]) for k in range(0, self.size**2, self.size)]
            path = shortest(rows)
            if path:
                return "\n".join(rows), " ".join(path)
        raise ConfigError(f"no grid of {self.name!r} has a way to its goal; use fewer walls.")

    def _ask(self, grid: str) -> tuple[Message, ...]:
        rows = grid.split("\n")
        legend = "@ you, G the goal, . free, # a wall"
        legend += ", O a pit (ends the game)" if self.pits else ""
        legend += f", ? not seen (you see {self.view} fields far)" if self.view else ""
        text = (
            f"Walk to the goal on a grid: {legend}.\n{shown(rows, find(rows, START), self.view)}\n"
            f"You have {self.turns} {'turns' if self.turns > 1 else 'turn'}. Answer with moves, "
            "e.g.: up right right"
        )
        return ({"role": "user", "content": text},)


class Grid:
    """One walk."""

    def __init__(self, rows: Sequence[str], view: int, turns: int) -> None:
        self._rows, self._view, self._turns = list(rows), view, turns
        self._place = find(rows, START)
        self.turns, self.num_moves, self.num_bumps = 0, 0, 0

    def init(self, prompt: Sequence[Message]) -> tuple[list[Message], dict[str, Any]]:
        return list(prompt), {}

    def step(self, action: str) -> StepResult:
        self.turns += 1
        most = 4 * len(self._rows)
        moves = [move.lower() for move in _MOVE.findall(action)][:most]
        told = self._walk(moves)
        field = self._field(self._place)
        if field in (GOAL, PIT) or self.turns >= self._turns:
            return StepResult(reward=float(field == GOAL))
        left = self._turns - self.turns
        text = (
            f"{told}\n{shown(self._rows, self._place, self._view)}\n"
            f"{left} {'turns' if left > 1 else 'turn'} left."
        )
        return StepResult(({"role": "user", "content": text},), 0.0, done=False)

    def close(self) -> None:
        """Nothing to release."""

    def get_metrics(self) -> dict[str, float]:
        return {"moves": float(self.num_moves), "bumps": float(self.num_bumps)}

    # -- internals ---------------------------------------------------------------

    def _field(self, place: Place) -> str:
        return field_at(self._rows, place)

    def _walk(self, moves: Sequence[str]) -> str:
        if not moves:
            return "Say moves: up, down, left or right."
        for move in moves:
            down, right = MOVES[move]
            ahead = (self._place[0] + down, self._place[1] + right)
            if self._field(ahead) == WALL:
                self.num_bumps += 1
                return f"A wall stops you going {move}."
            self._place = ahead
            self.num_moves += 1
            if self._field(ahead) in (GOAL, PIT):
                break
        return "You have moved."


def grid_task(name: str) -> GridTask:
    """A task by its name with options. Raises ConfigError for options that cannot be."""
    defaults = {"size": 4, "walls": 20, "pits": 0, "view": 0, "turns": 6}
    options = read_options(name, defaults)
    number = partial(between, FAMILY, options)
    walls = number("walls", 0, 60)
    return GridTask(
        name,
        number("size", 2, 12),
        walls,
        number("pits", 0, 60 - walls),
        number("view", 0, 12),
        number("turns", 1, 50),
    )


def shortest(rows: Sequence[str]) -> list[str]:
    """Moves from S to G past walls and pits; empty when there is no way."""
    start = find(rows, START)
    ways: dict[Place, list[str]] = {start: []}
    queue = deque([start])
    while queue:
        place = queue.popleft()
        for move, (down, right) in MOVES.items():
            ahead = (place[0] + down, place[1] + right)
            if ahead in ways or field_at(rows, ahead) in (WALL, PIT):
                continue
            ways[ahead] = [*ways[place], move]
            if field_at(rows, ahead) == GOAL:
                return ways[ahead]
            queue.append(ahead)
    return []


def field_at(rows: Sequence[str], place: Place) -> str:
    """Outside the grid there is a wall."""
    row, column = place
    inside = 0 <= row < len(rows) and 0 <= column < len(rows[row])
    return rows[row][column] if inside else WALL


def find(rows: Sequence[str], field: str) -> Place:
    return next((r, row.index(field)) for r, row in enumerate(rows) if field in row)


def shown(rows: Sequence[str], here: Place, view: int) -> str:
    """The grid as the walker sees it."""
    lines = []
    for r, row in enumerate(rows):
        fields = [FREE if field == START else field for field in row]
        for c in range(len(row)):
            if view and max(abs(r - here[0]), abs(c - here[1])) > view:
                fields[c] = HIDDEN
        if r == here[0]:
            fields[here[1]] = HERE
        lines.append("".join(fields))
    return "\n".join(lines)
