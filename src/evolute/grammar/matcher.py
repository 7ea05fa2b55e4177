"""What may come next: the state of one output under one grammar.

    matcher = grammar.start()
    matcher.fill_mask(row)       bit i of the row is 1 when token i may come
    matcher.accept(token_id)     move on; False (and no change) when the token may not come
    matcher.is_finished          nothing but the end may follow, or the end has come
    matcher.forced_tokens()      tokens that must follow, as the tokenizer would write them
    matcher.rollback(k)          take back the last k accepted tokens
    matcher.copy()               the same state, to go on separately

None of these raises for anything that a user's grammar or a sampled token can cause.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher

MaskRow = npt.NDArray[np.uint32] | npt.NDArray[np.int32]


class Matcher:
    """Not thread-safe; two matchers never share state.

    End-of-sequence ids are ordinary tokens here: allowed in the mask exactly where the output
    so far satisfies the grammar, and accepted once.
    """

    def __init__(self, inner: LLMatcher, vocab_size: int, eos_token_ids: frozenset[int]) -> None:
        self._inner: Any = inner
        self._vocab_size = vocab_size
        self._num_words = (vocab_size + 31) // 32
        self._eos_token_ids = eos_token_ids
        self._accepted: list[int] = []

    @property
    def num_accepted(self) -> int:
        return len(self._accepted)

    @property
    def is_ended(self) -> bool:
        """An end-of-sequence token was accepted."""
        return bool(self._accepted) and self._accepted[-1] in self._eos_token_ids

    @property
    def is_accepting(self) -> bool:
        """The output so far satisfies the grammar."""
        return bool(self._inner.is_accepting()) and not self.error

    @property
    def is_finished(self) -> bool:
        """Only an end-of-sequence token may follow, or the matcher failed (see `error`)."""
        return self.is_ended or bool(self._inner.is_stopped())

    @property
    def error(self) -> str:
        """Why the matcher gave up (a resource limit at run time), or ''. It stays given up."""
        return str(self._inner.get_error()) if self._inner.is_error() else ""

    def fill_mask(self, row: MaskRow) -> None:
        """Write the mask into `row` [>= ceil(vocab / 32)], 32-bit words, lowest bit first.

        Words beyond the vocabulary (a padded embedding) become 0. A matcher that ended or
        failed allows only the end-of-sequence ids, so that sampling can go on and the engine
        can end the output.
        """
        if row.ndim != 1 or row.size < self._num_words or row.itemsize != 4:
            raise ValueError(
                f"mask row of {row.dtype}{list(row.shape)}; it must be one row of at least "
                f"{self._num_words} 32-bit words."
            )
        words = row[: self._num_words]
        row[self._num_words :] = 0
        if not self.error:
            if words.flags["C_CONTIGUOUS"]:
                self._inner.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
            else:
                words[:] = np.frombuffer(self._inner.compute_bitmask(), dtype=row.dtype)
        if self.is_ended or self.error:  # computing a mask can also run into a limit
            self._allow_only_eos(words)

    def allows(self, token_id: int) -> bool:
        """True when `accept(token_id)` would succeed."""
        if self.is_ended or self.error or not 0 <= token_id < self._vocab_size:
            return False  # an id outside the vocabulary would put the library in its error state
        if token_id in self._eos_token_ids:
            return self.is_accepting
        return bool(self._inner.validate_tokens([token_id]) == 1)

    def accept(self, token_id: int) -> bool:
        """Move on by one token. False, with no change, when it may not come."""
        if not self.allows(token_id):
            return False
        # the library counts an end after its own stop as no token, which would break rollback
        is_end = token_id in self._eos_token_ids
        if not is_end and not self._inner.consume_token(token_id):
            return False
        self._accepted.append(token_id)
        return True

    def forced_tokens(self) -> list[int]:
        """Tokens that must come next, possibly none; the state does not move.

        They are what the tokenizer would write for the forced text, short of its last token
        where that could still grow into another one.
        """
        return (
            []
            if self.is_ended or self.error
            else [int(id) for id in self._inner.compute_ff_tokens()]
        )

    def rollback(self, count: int) -> bool:
        """Take back the last `count` accepted tokens; False when there are fewer."""
        if not 0 <= count <= len(self._accepted) or self.error:
            return False
        if count == 0:
            return True
        inner_count = count - self.is_ended
        if inner_count and not self._inner.rollback(inner_count):
            return False
        del self._accepted[-count:]
        return True

    def copy(self) -> Matcher:
        twin = Matcher.__new__(Matcher)
        twin._inner = self._inner.deep_copy()
        twin._vocab_size = self._vocab_size
        twin._num_words = self._num_words
        twin._eos_token_ids = self._eos_token_ids
        twin._accepted = self._accepted.copy()
        return twin

    def _allow_only_eos(self, words: MaskRow) -> None:
        words[:] = 0
        bits = words.view(np.uint32)
        for token_id in self._eos_token_ids:
            bits[token_id // 32] |= np.uint32(1 << (token_id % 32))
