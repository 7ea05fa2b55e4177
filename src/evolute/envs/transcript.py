"""The conversation of one episode as tokens: what was sampled, what the world said.

    sampled(output)              the model's turn: mask True, its log-probabilities, its versions
    replaced(text, tokenizer)    the world lets the model go on as if it had said `text`
    observed(ids, text)          the world's turn: mask False, log-probability 0
    sample()                     what can be trained on

Ids are only ever appended, and what the mask calls sampled was sampled. A world that replaces an
action (skyrl-gym's `postprocessed_action`) can only shorten it: the tokens up to there are kept as
they were sampled. Any other text stands there as the world's own words, outside the mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from evolute.types import Output, Tokenizer, TrainingSample, VersionSegment


@dataclass(slots=True)
class Transcript:
    """Grows turn by turn; `ids` follow `prompt_ids`."""

    prompt_ids: list[int]
    ids: list[int] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[VersionSegment] = field(default_factory=list)
    text: str = ""
    turns: int = 0
    num_replaced: int = 0  # turns whose tokens are the world's
    _last: Output | None = None

    def sampled(self, output: Output) -> None:
        self.ids += output.token_ids
        self.mask += [True] * len(output.token_ids)
        self.logprobs += output.logprobs
        self.versions += output.weight_versions
        self.text += output.text
        self.turns += 1
        self._last = output

    def replaced(self, text: str, tokenizer: Tokenizer) -> None:
        """Call it between `sampled` and `observed`, when the conversation goes on."""
        assert self._last is not None, "nothing was sampled yet"
        output = self._last
        if text == output.text:
            return
        kept = _prefix(output.token_ids, text, tokenizer)
        if kept == len(output.token_ids):
            return
        self._drop(output, kept or 0)
        if kept is None:
            self.observed(tokenizer.encode(text), "")
            self.num_replaced += 1
        self.text = self.text.removesuffix(output.text) + text

    def observed(self, ids: Sequence[int], text: str) -> None:
        self.ids += ids
        self.mask += [False] * len(ids)
        self.logprobs += [0.0] * len(ids)
        self.text += text

    def sample(self) -> TrainingSample:
        return TrainingSample(
            tuple(self.prompt_ids),
            tuple(self.ids),
            tuple(self.mask),
            tuple(self.logprobs),
            tuple(self.versions),
        )

    # -- internals ---------------------------------------------------------------

    def _drop(self, output: Output, kept: int) -> None:
        """Cut the last turn to its first `kept` tokens."""
        end = len(self.ids) - len(output.token_ids) + kept
        for column in (self.ids, self.mask, self.logprobs):
            del column[end:]
        del self.versions[len(self.versions) - len(output.weight_versions) :]
        for segment in output.weight_versions:
            if kept > 0:
                self.versions.append(replace(segment, num_tokens=min(segment.num_tokens, kept)))
            kept -= segment.num_tokens


def _prefix(ids: Sequence[int], text: str, tokenizer: Tokenizer) -> int | None:
    """How many of the first ids say `text`; None if no number does. The longest, so that an end
    of turn, which has no text, stays."""
    low, high = 0, len(ids)
    while low < high:  # texts of prefixes only grow
        middle = (low + high + 1) // 2
        if len(tokenizer.decode(ids[:middle])) <= len(text):
            low = middle
        else:
            high = middle - 1
    return low if tokenizer.decode(ids[:low]) == text else None
