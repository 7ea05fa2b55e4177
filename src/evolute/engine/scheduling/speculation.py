"""Which tokens will a sequence probably make next? What it did after the same words before.

    NgramIndex(low, high)    read(tokens), guess(tokens, count) -> the tokens that may follow
    Speculator(settings)     propose(running), judge(sequence, drafted, accepted), forget(sequence)
    room(sequence, most)     how many tokens may be guessed for it now
    propose_forced(running, forced, most)    the tokens that a grammar leaves no choice about

A guess costs rows of a step and never changes an output: the engine takes a guessed token only
where it draws the same one (`core.py`). Prompt lookup: the longest run of last tokens that occurred
before is continued as it was then (Saxena 2023). Who guesses badly pauses, longer each time.
Sequences with a grammar are guessed for by what their grammar forces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from evolute.engine.scheduling.sequence import Sequence

MAX_READ = 4096  # tokens of one sequence that one step indexes: a long prompt takes several steps
CREDIT = 12  # guesses that may fail before a pause; an accepted one earns GAIN, up to CREDIT
GAIN = 3
PAUSE = 32  # tokens made without guessing; doubled until the credit is full again
MAX_PAUSE = 1024


@dataclass(frozen=True, slots=True)
class SpeculationSettings:
    """How much is guessed, from which runs of tokens, and for how many sequences at most."""

    draft_tokens: int = 4
    ngram_min: int = 2
    ngram_max: int = 4
    up_to: int = 4  # running sequences; when there are more, nobody's tokens are guessed


def room(sequence: Sequence, most: int) -> int:
    """At most `most`; none for a sequence that is not decoding. The step makes one token more than
    it guesses."""
    if sequence.num_uncomputed != 1 or not sequence.num_generated:
        return 0
    return max(min(most, sequence.max_new_tokens - sequence.num_generated - 1), 0)


def propose_forced(
    running: Iterable[Sequence], forced: Callable[[Sequence, int], list[int]], most: int
) -> None:
    """Set `proposed` of those with a grammar to what it forces. No guess but in form: it is drawn
    like any other, from a mask that leaves nothing else."""
    for sequence in running:
        if sequence.is_constrained:
            sequence.proposed = forced(sequence, room(sequence, most))


class NgramIndex:
    """Where runs of `low` to `high` tokens last ended with something after them.

    Reading a token takes constant time; so does a guess.
    """

    def __init__(self, low: int, high: int) -> None:
        self._ends: dict[int, dict[tuple[int, ...], int]] = {
            n: {} for n in range(high, low - 1, -1)
        }
        self._num_read = 0  # every run that ends here or before is known

    def read(self, tokens: list[int], most: int = MAX_READ) -> bool:
        """Take in what was appended, `most` tokens at a time; True when nothing is left."""
        last = len(tokens) - 1  # what ends with the last token has nothing after it yet
        until = min(last, self._num_read + most)
        for end in range(self._num_read + 1, until + 1):
            for size, ends in self._ends.items():
                if size <= end:
                    ends[tuple(tokens[end - size : end])] = end
        self._num_read = max(until, self._num_read)
        return until == last

    def guess(self, tokens: list[int], count: int) -> list[int]:
        """`count` tokens, or none. What runs into the end of `tokens` goes on with itself."""
        for size, ends in self._ends.items():
            end = ends.get(tuple(tokens[-size:])) if size <= len(tokens) else None
            if end is not None:
                period = len(tokens) - end
                return [tokens[end + i % period] for i in range(count)]
        return []


@dataclass(slots=True)
class _Record:
    """One sequence's index, and how well its guesses did."""

    index: NgramIndex
    credit: int = CREDIT
    pause: int = PAUSE
    resumes_at: int = 0  # number of tokens


@dataclass(slots=True)
class Speculator:
    """Guesses for running sequences; without settings, none. It counts tokens, not time."""

    settings: SpeculationSettings | None
    _records: dict[Sequence, _Record] = field(default_factory=dict)

    def propose(self, running: Iterable[Sequence]) -> None:
        """Set `proposed` of each: what it may make next, empty where nothing is guessed."""
        running = list(running)
        settings = self.settings
        if settings is not None and len(running) > settings.up_to:
            settings = None
        for sequence in running:
            sequence.proposed = self._guess(sequence, settings) if settings else []

    def judge(self, sequence: Sequence, num_drafted: int, num_accepted: int) -> None:
        """What became of its guesses in one step."""
        record = self._records.get(sequence)
        if record is None:
            return  # it has ended, or settings have changed since
        change = GAIN * num_accepted - (num_drafted - num_accepted)
        record.credit = min(record.credit + change, CREDIT)
        if record.credit == CREDIT:
            record.pause = PAUSE
        elif record.credit <= 0:
            record.resumes_at = sequence.num_tokens + record.pause
            record.pause = min(2 * record.pause, MAX_PAUSE)
            record.credit = CREDIT // 2

    def forget(self, sequence: Sequence) -> None:
        """It has ended. Unknown ones are ignored."""
        self._records.pop(sequence, None)

    # -- internals -----------------------------------------------------------

    def _guess(self, sequence: Sequence, settings: SpeculationSettings) -> list[int]:
        count = room(sequence, settings.draft_tokens)
        if not count or sequence.is_constrained:
            return []
        record = self._records.get(sequence)
        if record is None:
            record = _Record(NgramIndex(settings.ngram_min, settings.ngram_max))
            self._records[sequence] = record
        if not record.index.read(sequence.tokens) or sequence.num_tokens < record.resumes_at:
            return []
        return record.index.guess(sequence.tokens, count)
