"""What a step does for one draft: what it computes, then the rows of logits to choose from."""

from __future__ import annotations

from dataclasses import dataclass

from evolute.engine.execution.batch import Segment
from evolute.engine.output import Draft


@dataclass(frozen=True, slots=True)
class Work:
    """One draft's part of a step, and how many rows of logits it gets; the segment ends with
    the guesses in `drafted`."""

    draft: Draft
    segment: Segment
    num_rows: int
    drafted: list[int]


@dataclass(frozen=True, slots=True)
class Ready:
    """A draft whose next token is to be chosen from row `row`, and from one more for each guess."""

    draft: Draft
    row: int
    drafted: list[int]
