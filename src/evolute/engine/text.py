"""From token ids to text, while the tokens are still coming.

    TokenTexts(tokenizer)     what each token stands for, asked once; shared by all streams
    TextStream.push(token_id) -> the text that is now safe to show
    TextStream.finish()       -> what was held back, when nothing more will come

Two things are held back: bytes that are not yet a whole UTF-8 character, and text that may be
the beginning of a stop string or of a stop regex's match. The stop that is complete first ends
the stream; it and what follows it are not shown (it is with `include_stop`).
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from evolute.engine.stop_regex import StopRegexes
from evolute.types import Tokenizer


class TokenTexts:
    """Bytes of each token, None for control tokens that show as nothing; filled as they come."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._shown: dict[int, bytes | None] = {}

    def shown(self, token_id: int) -> bytes | None:
        """Its bytes; None for a control token, which `skip_special_tokens` leaves out."""
        if token_id not in self._shown:
            text = self._tokenizer.token_bytes(token_id)
            is_special = bool(text) and not self._tokenizer.decode([token_id])
            self._shown[token_id] = None if is_special else text
        return self._shown[token_id]

    def bytes_of(self, token_id: int) -> bytes:
        """Its bytes, control tokens by their names."""
        return self._tokenizer.token_bytes(token_id)


class TextStream:
    """The text of one output, token by token. `matched_stop` is set once a stop was found."""

    def __init__(
        self,
        texts: TokenTexts,
        stop: Sequence[str] = (),
        regexes: StopRegexes | None = None,
        *,
        include_stop: bool = False,
        skip_special_tokens: bool = True,
    ) -> None:
        self._texts = texts
        self._stop = tuple(stop)
        self._scan = regexes.start() if regexes else None
        self._num_shown = 0  # characters released so far
        self._include_stop = include_stop
        self._skip_special = skip_special_tokens
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""  # decoded, but perhaps the start of a stop string
        self.matched_stop: str | None = None

    def push(self, token_id: int) -> str:
        """Add one token. Returns the text that became safe; often ''."""
        if self.matched_stop is not None:
            return ""
        shown = self._texts.shown(token_id)
        if shown is None:
            if self._skip_special:
                return ""
            shown = self._texts.bytes_of(token_id)
        new = self._utf8.decode(shown)
        return self._release(new) if self._stop or self._scan else new

    def finish(self) -> str:
        """Give back what was held; an unfinished character becomes U+FFFD."""
        if self.matched_stop is not None:
            return ""
        rest = self._release(self._utf8.decode(b"", final=True)) + self._held
        self._held = ""
        return rest

    def drop(self) -> None:
        """Forget what is held; nothing more is shown."""
        self._utf8.reset()
        self._held, self._scan = "", None

    def _release(self, new: str) -> str:
        text = self._held + new
        found = [(at, at + len(stop), stop) for stop in self._stop if (at := text.find(stop)) >= 0]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        if self._scan:
            match = self._scan.push(new)
            if match:
                shown = self._num_shown
                found.append((match.start - shown, match.end - shown, match.pattern))
            keep = max(keep, self._num_shown + len(text) - self._scan.safe)
        if found:
            start, end, stop = min(found, key=lambda one: (one[1], one[0]))
            self.matched_stop, self._held = stop, ""
            return text[: end if self._include_stop else start]
        self._held = text[len(text) - keep :]
        self._num_shown += len(text) - keep
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`, the whole of it excluded."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0
