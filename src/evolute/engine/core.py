"""The engine's heart: one step asks scheduling, then memory, then runs the model.

    add(request)  -> drafts             validated and queued
    step()        -> events             one forward pass; what it gave to whom
    abort(id), load_adapter, set_version, flush

    waiting --admit: match, pin--> running --chunk by chunk--> sampled --stop?--> finished
       ^                              |                                              |
       +------- preempt: publish -----+                 publish pages in the cache --+

Not thread-safe and without a clock: one thread owns it (`engine.py`).
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from evolute.engine.config import EngineConfig, Resolved
from evolute.engine.execution.batch import Executor, Segment, build_batch
from evolute.engine.execution.sampler import Chosen, Float32, Row, logprob_of
from evolute.engine.memory import PagePool, RadixCache, RadixNode
from evolute.engine.output import Draft, stop_ids
from evolute.engine.scheduling import (
    QUEUES,
    Candidate,
    Chunk,
    Limits,
    Namespace,
    Queue,
    Sequence,
    next_step,
)
from evolute.engine.text import TextStream
from evolute.grammar import GrammarCompiler
from evolute.types import (
    Delta,
    FinishReason,
    GenerateRequest,
    OutOfCapacity,
    PromptTooLong,
    RequestError,
    Tokenizer,
)

logger = logging.getLogger(__name__)
Choose = Callable[[Float32, list[Row]], list[Chosen | None]]  # None: the logits are NaN


@dataclass(slots=True)
class Counts:
    """What the engine did since it started; exact, for gates and reports."""

    steps: int = 0
    computed_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    requests: int = 0
    finished: int = 0
    preemptions: int = 0
    evicted_pages: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """Something new for one draft."""

    draft: Draft
    delta: Delta


class EngineCore:
    """Requests in, tokens out, one step at a time."""

    def __init__(
        self,
        settings: Resolved,
        executor: Executor,
        choose: Choose,
        tokenizer: Tokenizer,
        grammars: GrammarCompiler,
        vocab_size: int,
    ) -> None:
        self.vocab_size = vocab_size
        self.settings, self.counts = settings, Counts()
        self.executor, self.tokenizer, self.grammars = executor, tokenizer, grammars
        self._choose = choose
        self.pool = PagePool(settings.num_pages)
        self.cache = RadixCache(settings.config.page_size)
        self.queue: Queue = QUEUES[settings.config.policy]()
        self.running: list[Sequence] = []
        self._drafts: dict[Sequence, Draft] = {}
        self._pinned: dict[Sequence, RadixNode] = {}
        self._ids = itertools.count()
        self._seeds = random.Random()

    @property
    def is_idle(self) -> bool:
        return not self.running and not len(self.queue)

    @property
    def num_waiting(self) -> int:
        return len(self.queue)

    # -- requests --------------------------------------------------------------

    def add(self, request: GenerateRequest, adapter: int, namespace: Namespace) -> list[Draft]:
        """Queue all samples of a request. Raises RequestError or OutOfCapacity; then none is."""
        limit = self._check(request)
        grammar = self.grammars.compile(request.sampling)
        drafts = []
        for index in range(request.sampling.n):
            sequence = Sequence(
                next(self._ids),
                len(request.prompt),
                list(request.prompt),
                limit,
                namespace,
                is_private=not self.settings.config.prefix_cache,
                tenant=request.tenant,
            )
            draft = Draft(
                request,
                index,
                sequence,
                TextStream(
                    self.tokenizer,
                    request.sampling.stop,
                    include_stop=request.sampling.include_stop,
                    skip_special_tokens=request.sampling.skip_special_tokens,
                ),
                seed=self._seed(request, index),
                stop_token_ids=stop_ids(request, self.tokenizer),
                vocab_size=self.vocab_size,
                adapter=adapter,
                matcher=grammar.start() if grammar else None,
            )
            self._drafts[sequence] = draft
            self.queue.push(sequence)
            drafts.append(draft)
        self.counts.requests += 1
        return drafts

    def abort(self, drafts: list[Draft], reason: FinishReason = FinishReason.ABORT) -> None:
        """Stop unfinished drafts; what they made so far stays in their output."""
        for draft in drafts:
            if draft.output is None:
                draft.finish(reason)
                self._forget(draft.sequence)

    # -- one step --------------------------------------------------------------

    def step(self) -> list[Event]:
        """Plan, make room, run, sample. Returns the news; empty when there was nothing to do."""
        config = self.settings.config
        limits = Limits(
            config.token_budget,
            self.pool.num_free + self.cache.num_evictable,
            config.page_size,
            config.max_running,
        )
        step = next_step(self.running, self.queue.order(self._cached), self._look_up, limits)
        for sequence in step.preempted:
            self._preempt(sequence)
        for sequence in step.admitted:
            self._admit(sequence)
        chunks = [chunk for chunk in step.chunks if self._reserve(chunk)]
        if not chunks:
            return []
        logits = self.executor.forward(build_batch([self._segment(c) for c in chunks]))
        self.counts.steps += 1
        self.counts.computed_tokens += sum(chunk.num_tokens for chunk in chunks)
        return self._collect(chunks, logits)

    def apply(self, config: EngineConfig) -> None:
        """Take new live settings between two steps; waiting sequences keep their order."""
        if config.policy != self.settings.config.policy:
            queue: Queue = QUEUES[config.policy]()
            for sequence in self.queue.order(lambda _: 0):
                queue.push(sequence)
            self.queue = queue
        self.executor.set_num_threads(config.num_threads)
        self.settings = dataclasses.replace(self.settings, config=config)

    def uses_adapter(self, index: int) -> bool:
        return any(draft.adapter == index for draft in self._drafts.values())

    # -- weights ---------------------------------------------------------------

    def drop_namespaces(self, is_stale: Callable[[Namespace], bool]) -> None:
        """Forget cached pages of weights that changed."""
        self.pool.free(self.cache.drop(is_stale))

    def rebind(self, rename: Callable[[Namespace], Namespace]) -> None:
        """Give sequences in flight the namespace of new weights; they keep what they computed.

        A running sequence then mixes keys and values of two versions, so nothing of it may be
        shared any more. Its output says which version made which token.
        """
        for sequence in self._drafts:
            new = rename(sequence.namespace)
            if new != sequence.namespace:
                sequence.namespace = new
                sequence.is_private |= sequence in self.running

    def flush(self) -> None:
        self.drop_namespaces(lambda namespace: True)

    def check(self) -> None:
        """Assert that each page is free, cached, or owned by exactly one sequence."""
        self.cache.check()
        own = [page for s in self.running for page in s.pages[s.num_shared_pages :]]
        held = self.cache.pages() + own
        assert len(held) + self.pool.num_free == self.pool.num_pages, "pages were lost"
        assert len(set(held)) == len(held), "a page has two owners"

    # -- internals -------------------------------------------------------------

    def _check(self, request: GenerateRequest) -> int:
        """Tokens this request may make at most."""
        prompt, sampling = request.prompt, request.sampling
        config = self.settings.config
        size = len(prompt)
        if not size:
            raise RequestError("the prompt is empty; it must hold at least one token.")
        if not all(0 <= token < self.vocab_size for token in prompt):
            bad = next(t for t in prompt if not 0 <= t < self.vocab_size)
            raise RequestError(
                f"token id {bad} is out of vocabulary; ids run to {self.vocab_size - 1}."
            )
        slots = min(config.context, self.settings.num_pages * config.page_size)
        if size + min(sampling.max_new_tokens, 1) > slots:
            what = "the model's context" if slots == config.context else "engine.memory_mb"
            raise PromptTooLong(
                f"the prompt has {size} tokens and asks for {sampling.max_new_tokens} more, but "
                f"{what} holds {slots}. Shorten the prompt or raise that setting."
            )
        if len(self.queue) + sampling.n > config.max_waiting:
            raise OutOfCapacity(
                f"the waiting queue is full ({len(self.queue)} of engine.max_waiting = "
                f"{config.max_waiting}); try again later."
            )
        return min(sampling.max_new_tokens, slots - size)

    def _seed(self, request: GenerateRequest, index: int) -> int:
        seed = request.sampling.seed
        return self._seeds.getrandbits(63) if seed is None else seed * 1_000_003 + index

    def _look_up(self, sequence: Sequence) -> Candidate:
        if sequence.is_private or self._drafts[sequence].wants_prompt_logprobs:
            return Candidate(sequence, 0, 0)
        # the last token is never matched: its logits are needed
        match = self.cache.match(sequence.namespace, sequence.tokens[:-1])
        return Candidate(sequence, match.num_tokens, len(match.pages))

    def _cached(self, sequence: Sequence) -> int:
        return self._look_up(sequence).num_cached

    def _admit(self, sequence: Sequence) -> None:
        self.queue.remove(sequence)
        self.running.append(sequence)
        if not self._look_up(sequence).num_cached:
            sequence.num_cached = sequence.num_cached or 0
            return
        match = self.cache.match(sequence.namespace, sequence.tokens[:-1])
        self._pinned[sequence] = self.cache.pin(match)
        sequence.pages = list(match.pages)
        sequence.num_shared_pages = len(match.pages)
        sequence.num_computed = match.num_tokens
        self.counts.cached_tokens += match.num_tokens
        if sequence.num_cached is None:
            sequence.num_cached = match.num_tokens

    def _reserve(self, chunk: Chunk) -> bool:
        """Get the pages a chunk writes to, evicting if needed; False if there are none."""
        sequence = chunk.sequence
        count = sequence.pages_for(chunk.num_tokens, self.settings.config.page_size)
        if self.pool.num_free < count:
            evicted = self.cache.evict(count - self.pool.num_free)
            self.counts.evicted_pages += len(evicted)
            self.pool.free(evicted)
        pages = self.pool.allocate(count)
        if pages is None:
            return False
        sequence.pages += pages
        return True

    def _segment(self, chunk: Chunk) -> Segment:
        sequence = chunk.sequence
        draft = self._drafts[sequence]
        start, end = sequence.num_computed, sequence.num_computed + chunk.num_tokens
        logits_from = sequence.num_tokens - 1 if end == sequence.num_tokens else None
        if draft.wants_prompt_logprobs and start < sequence.prompt_len:
            logits_from = start
        if draft.sequence.max_new_tokens == 0 and not draft.wants_prompt_logprobs:
            logits_from = None
        tokens = sequence.tokens[start:end]
        return Segment(tokens, start, sequence.pages, draft.adapter, logits_from)

    def _collect(self, chunks: list[Chunk], logits: Float32) -> list[Event]:
        """Sort the logits rows to their drafts, choose tokens, finish what is finished."""
        ready: list[tuple[Draft, int]] = []
        row, events = 0, list[Event]()
        for chunk in chunks:
            sequence, draft = chunk.sequence, self._drafts[chunk.sequence]
            segment_from = self._segment(chunk).logits_from
            sequence.num_computed += chunk.num_tokens
            rows = 0 if segment_from is None else sequence.num_computed - segment_from
            if draft.wants_prompt_logprobs:
                self._score(draft, logits[row : row + rows], segment_from or 0)
            row += rows
            if sequence.num_uncomputed == 0:
                if sequence.max_new_tokens == 0:
                    draft.finish(FinishReason.LENGTH)
                    events.append(Event(draft, Delta(draft.index, "", (), (), (), draft.output)))
                    self._forget(sequence)
                else:
                    ready.append((draft, row - 1))
                    self._publish_prompt(sequence)
        return events + self._sample(ready, logits)

    def _sample(self, ready: list[tuple[Draft, int]], logits: Float32) -> list[Event]:
        if not ready:
            return []
        chosen = self._choose(logits[[row for _, row in ready]], [d.row() for d, _ in ready])
        events = []
        for (draft, _), choice in zip(ready, chosen):
            if choice is None:
                draft.finish(FinishReason.ERROR, "the model's logits are not finite")
                delta = Delta(draft.index, "", (), (), (), draft.output)
            else:
                version = self._version(draft.sequence)
                delta = draft.accept(choice, version)
                self.counts.output_tokens += 1
            events.append(Event(draft, delta))
            if draft.output is not None:
                self.counts.finished += 1
                self._forget(draft.sequence)
        return events

    def _version(self, sequence: Sequence) -> int:
        return sequence.namespace[1]

    def _score(self, draft: Draft, logits: Float32, start: int) -> None:
        """Log-probabilities of the prompt tokens that follow each row."""
        sampling, prompt = draft.request.sampling, draft.request.prompt
        temperature = 1.0 if sampling.is_greedy else sampling.temperature
        if not draft.prompt_logprobs:
            draft.prompt_logprobs.append(None)
        for i, row in enumerate(logits, start):
            if i + 1 < len(prompt) and len(draft.prompt_logprobs) == i + 1:
                draft.prompt_logprobs.append(logprob_of(row, prompt[i + 1], temperature))

    def _publish_prompt(self, sequence: Sequence) -> None:
        """Share a prompt as soon as it is computed, so that siblings find it."""
        if sequence.num_generated == 0:
            self._publish(sequence)

    def _publish(self, sequence: Sequence) -> None:
        """Hand whole computed pages to the cache and hold them there in place of our own."""
        before = self._pinned.get(sequence)
        if sequence.is_private or (before is not None and before.is_dropped):
            return  # what it holds of a flushed cache must not be published a second time
        size = self.settings.config.page_size
        whole = sequence.num_computed // size
        tokens = sequence.tokens[: whole * size]
        duplicates = self.cache.insert(sequence.namespace, tokens, sequence.pages[:whole])
        match = self.cache.match(sequence.namespace, tokens)
        self._pinned.pop(sequence, None)
        if match.pages:
            self._pinned[sequence] = self.cache.pin(match)
        if before is not None:
            self.pool.free(self.cache.unpin(before))
        own = set(sequence.pages[sequence.num_shared_pages :])
        self.pool.free(page for page in duplicates if page in own)
        sequence.pages = [*match.pages, *sequence.pages[whole:]]
        sequence.num_shared_pages = len(match.pages)

    def _preempt(self, sequence: Sequence) -> None:
        self.counts.preemptions += 1
        sequence.num_preemptions += 1
        self._release(sequence)
        self.queue.push(sequence, front=True)

    def _release(self, sequence: Sequence) -> None:
        """Leave the running batch; whole pages stay behind in the cache."""
        self.running.remove(sequence)
        self._publish(sequence)
        self.pool.free(sequence.pages[sequence.num_shared_pages :])
        held = self._pinned.pop(sequence, None)
        if held is not None:
            self.pool.free(self.cache.unpin(held))
        sequence.pages, sequence.num_shared_pages, sequence.num_computed = [], 0, 0

    def _forget(self, sequence: Sequence) -> None:
        if sequence in self.running:
            self._release(sequence)
        else:
            self.queue.remove(sequence)
        del self._drafts[sequence]
