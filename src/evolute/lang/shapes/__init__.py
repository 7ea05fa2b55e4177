"""The shapes that programs have (SGLang, arXiv 2312.07104, 6.1), each as a program that runs.

SHAPES[name] -> Shape(program, inputs, count)
evolute run .../shapes/react.py          any of them by itself
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import evolute.lang.shapes.agents as agents
import evolute.lang.shapes.branch_solve_merge as branch_solve_merge
import evolute.lang.shapes.few_shot as few_shot
import evolute.lang.shapes.json_decode as json_decode
import evolute.lang.shapes.multi_turn as multi_turn
import evolute.lang.shapes.rag as rag
import evolute.lang.shapes.react as react
import evolute.lang.shapes.selection as selection
import evolute.lang.shapes.skeleton as skeleton
import evolute.lang.shapes.tree_of_thought as tree_of_thought

if TYPE_CHECKING:
    from evolute.lang.interpreter.program import Program


@dataclass(frozen=True, slots=True)
class Shape:
    """`inputs(count, seed)` gives arguments of that many programs; `count` is what benches run."""

    program: Program
    inputs: Callable[..., list[dict[str, Any]]]
    count: int


SHAPES: dict[str, Shape] = {
    "few_shot": Shape(few_shot.few_shot, few_shot.inputs, 24),
    "selection": Shape(selection.selection, selection.inputs, 12),
    "react": Shape(react.react, react.inputs, 8),
    "agents": Shape(agents.agents, agents.inputs, 24),
    "tree_of_thought": Shape(tree_of_thought.tree_of_thought, tree_of_thought.inputs, 4),
    "skeleton": Shape(skeleton.skeleton, skeleton.inputs, 8),
    "branch_solve_merge": Shape(
        branch_solve_merge.branch_solve_merge, branch_solve_merge.inputs, 8
    ),
    "json_decode": Shape(json_decode.json_decode, json_decode.inputs, 16),
    "multi_turn_short": Shape(multi_turn.multi_turn_short, multi_turn.inputs, 8),
    "multi_turn_long": Shape(multi_turn.multi_turn_long, multi_turn.inputs, 8),
    "rag": Shape(rag.rag, rag.inputs, 24),
}

__all__ = ["SHAPES", "Shape"]
