"""Checkmate in one: a position of a random game in which some move mates.

    checkmate_in_one("checkmate-in-one?notation=uci")
    mates(text, position)            does the move that a text names mate? Any mating move counts

Positions are the last but one of games of random moves that end in a mate. Needs the package
`chess`, which is loaded when the first position is made or checked.
"""

from __future__ import annotations

import random
import re
from functools import partial
from typing import Any

from evolute.envs.puzzles.task import PuzzleTask, choice, read_options
from evolute.types import ConfigError

POSITION = re.compile(r"\(FEN\): ([1-8pnbrqkPNBRQK/]+ [wb] \S+ \S+ \d+ \d+)")
MOVE = re.compile(r"\b(?:[KQRBN]?[a-h]?[1-8]?x?[a-h][1-8](?:=?[QRBNqrbn])?|O-O(?:-O)?)[+#]?")
MAX_PLIES = 160  # of one random game
NOTATIONS = ("san", "uci")


def checkmate_in_one(name: str) -> PuzzleTask:
    """`checkmate-in-one?notation=san`: the position is given as FEN, the move wanted in SAN or
    UCI notation. Raises ConfigError without the package `chess`."""
    options = read_options(name, {"notation": "san"})
    notation = choice("checkmate-in-one", options, "notation", NOTATIONS)
    _chess()
    draw = partial(_draw, notation)
    return PuzzleTask(name, draw, _grade, max_new_tokens=12, check="checkmate-in-one")


def read_position(question: str) -> str | None:
    """The FEN of a question, None when it has none."""
    found = POSITION.search(question)
    return found[1] if found else None


def mates(text: str, position: str) -> bool:
    """Whether the last move that a text names, in SAN or UCI, is legal and mates."""
    board = _chess().Board(position)
    found = MOVE.findall(text)
    uci = re.findall(r"\b[a-h][1-8][a-h][1-8][qrbn]?\b", text)
    if uci and (not found or text.rindex(uci[-1]) >= text.rindex(found[-1]) - 2):
        return _mates_after(board, uci[-1], is_uci=True)
    return bool(found) and _mates_after(board, found[-1], is_uci=False)


# -- internals ---------------------------------------------------------------


def _chess() -> Any:
    try:
        import chess
    except ImportError as error:
        raise ConfigError(
            "task 'checkmate-in-one' needs the package chess; pip install chess==1.11.2."
        ) from error
    return chess


def _mates_after(board: Any, move: str, *, is_uci: bool) -> bool:
    try:
        (board.push_uci if is_uci else board.push_san)(move)
    except ValueError:
        return False
    return bool(board.is_checkmate())


def _draw(notation: str, source: random.Random) -> tuple[str, str]:
    board, move = _mated(source)
    side = "White" if board.turn else "Black"
    form = {"san": "standard algebraic notation", "uci": "UCI notation, such as e2e4"}[notation]
    question = (
        f"Position of a chess game (FEN): {board.fen()}\n{side} is to move and can mate in one "
        f"move. Which move mates? Answer with the move only, in {form}."
    )
    return question, board.san(move) if notation == "san" else move.uci()


def _mated(source: random.Random) -> tuple[Any, Any]:
    """A position and its mating move, from random games until one ends in a mate."""
    chess = _chess()
    while True:
        board = chess.Board()
        while board.ply() < MAX_PLIES:
            moves = list(board.legal_moves)
            if not moves:
                break
            board.push(source.choice(moves))
            if board.is_checkmate():
                move = board.pop()
                return board, move


def _grade(question: str, gold: str, answer: str) -> bool:
    position = read_position(question)
    assert position is not None, "our own question"
    return mates(answer, position)
