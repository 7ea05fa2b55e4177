"""What did the gens of one chat turn say? For endpoints that only chat: one call writes it whole.

    match(text, [text | Hole]) -> {name: text} | None      None: it does not say what it should
    await fill(request, backend, pattern, counts) -> Turn   one call, tried again when it misses

Constants must stand in the answer as the program writes them. A hole runs to the first of its
stops, or to where the next constant begins; the last one takes the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from evolute.lang.account import Spent
from evolute.lang.backend import Reply, TextBackend, TextRequest
from evolute.lang.speculation.counts import SurplusCounts

TRIES = 3


@dataclass(frozen=True, slots=True)
class Hole:
    """A gen within a turn."""

    name: str
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """`texts` of the holes, by name; None when no try said what the program says. `reply` is the
    last one; `spent` is of all."""

    texts: Mapping[str, str] | None
    reply: Reply
    spent: Spent


def match(text: str, pattern: Sequence[str | Hole]) -> dict[str, str] | None:
    """The texts of the holes. Space before the first word does not count, as chats drop it;
    constants after the last hole may be missing. Two holes with neither stop nor constant between
    them cannot be told apart: None.
    """
    found: dict[str, str] = {}
    parts = [part for part in pattern if part != ""]
    at = 0
    for number, part in enumerate(parts):
        if isinstance(part, Hole):
            end = _end(text, at, part, parts[number + 1 :])
            if end is None:
                return None
            found[part.name], at = text[at:end], end
            continue
        if number == 0:
            text, part = text.lstrip(), part.lstrip()
        if not text.startswith(part, at):
            is_rest = not any(isinstance(later, Hole) for later in parts[number:])
            return found if is_rest and at == len(text) else None
        at += len(part)
    return found


async def fill(
    request: TextRequest,
    backend: TextBackend,
    pattern: Sequence[str | Hole],
    counts: SurplusCounts,
    *,
    tries: int = TRIES,
) -> Turn:
    """Ask for the whole turn, at most `tries` times: once with greedy decoding, which would only
    say the same again. The request's `max_new_tokens` are the turn's; its stops are left out."""
    sampling = replace(request.sampling, stop=(), include_stop=False)
    spent = Spent()
    for number in range(1 if sampling.is_greedy else tries):
        seed = None if sampling.seed is None else sampling.seed + number
        asked = replace(request, sampling=replace(sampling, seed=seed))
        reply = await backend.generate(asked)
        spent += reply.spent
        texts = match(reply.outputs[0].text, pattern)
        if texts is not None:
            saved = max(len(texts) - 1, 0)
            counts.hits += saved
            return Turn(texts, reply, spent + Spent(calls_saved=saved))
        counts.misses += 1
        counts.tokens_wasted += reply.spent.output_tokens
    return Turn(None, reply, spent)


# -- internals ---------------------------------------------------------------


def _end(text: str, at: int, hole: Hole, following: Sequence[str | Hole]) -> int | None:
    """Where the hole that begins at `at` ends; None when nothing ends it."""
    marks = [*hole.stop]
    if not marks and following and isinstance(following[0], str):
        marks.append(following[0])
    ends = [end for end in (text.find(mark, at) for mark in marks) if end >= 0]
    if ends:
        return min(ends)
    is_last = not any(isinstance(part, Hole) for part in following)
    return len(text) if is_last else None
