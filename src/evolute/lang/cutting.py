"""Which of the tokens that were made are the text of the answer?

    text_prefix(output, decode) -> (tokens, characters)

The tokens that end an answer (end of sequence, a stop string's) are no part of its text. Where a
stop string begins within a token, that token's text is characters beyond the last whole token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from evolute.types import FinishReason, Output

MAX_CUT = 64  # tokens that a stop may have; beyond, no token is taken for the text's


def text_prefix(output: Output, decode: Callable[[Sequence[int]], str]) -> tuple[int, int]:
    """The most leading tokens that are a beginning of `output.text`, and their characters."""
    if output.finish_reason is FinishReason.LENGTH:
        return len(output.token_ids), len(output.text)
    for count in candidates(output):
        shown = decode(output.token_ids[:count])
        if shown and output.text.startswith(shown):
            return count, len(shown)
    return 0, 0


def candidates(output: Output) -> Iterator[int]:
    """How many tokens it may be, the most first."""
    last = len(output.token_ids) - isinstance(output.matched_stop, int)
    yield from range(last, max(0, last - MAX_CUT), -1)
