"""The engine's heart: one step asks scheduling, then placement, then runs the model.

    add(request)  -> drafts             validated and queued
    step()        -> events             one forward pass; what it gave to whom
    abort(drafts), fail(drafts, why)    end them as they are; end_late: before their first token
    forget_weights(who, version), flush, apply
    inspect() -> events                 while idle: are all pages accounted for? Repair if not
    abandon(why)                        accounts broke: end everything and begin anew

    waiting --admit: match, pin--> running --chunk by chunk--> sampled --stop?--> finished
       ^                              |                                              |
       +------- preempt: publish -----+                 publish pages in the cache --+

Not thread-safe and without a clock: one thread owns it (`loop.py`).
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import random
import sys
from collections.abc import Callable, Iterable

import numpy as np

from evolute.engine.admission import check_request
from evolute.engine.config import EngineConfig, Resolved
from evolute.engine.counts import Counts
from evolute.engine.execution.adapter_loading import AdapterLoader
from evolute.engine.execution.batch import Executor, ExecutorLost, Segment, build_batch
from evolute.engine.execution.sampler import Chosen, Float32, Sampler
from evolute.engine.memory import Tier
from evolute.engine.output import Draft, Event, stop_ids
from evolute.engine.part import Ready, Work
from evolute.engine.prompt_scores import score_prompt
from evolute.engine.scheduling import (
    Blocked,
    Chunk,
    Limits,
    Namespace,
    Placement,
    Policy,
    Sequence,
    Speculator,
    change_policy,
    displaced,
    make_policy,
    next_step,
    propose_forced,
)
from evolute.engine.stop_regex import compile_regexes
from evolute.engine.text import TextStream, TokenTexts
from evolute.grammar import Grammar, GrammarCompiler
from evolute.types import FinishReason, GenerateRequest, Tokenizer

logger = logging.getLogger(__name__)
PREFETCH_AHEAD = 8  # waiting sequences whose adapters are copied beside a step


class EngineCore:
    """Requests in, tokens out, one step at a time."""

    def __init__(
        self,
        settings: Resolved,
        executor: Executor,
        sampler: Sampler,
        tokenizer: Tokenizer,
        grammars: GrammarCompiler,
        vocab_size: int,
        tier: Tier | None = None,
    ) -> None:
        self.vocab_size = vocab_size
        self.settings, self.counts = settings, Counts()
        self.executor, self.tokenizer, self.grammars = executor, tokenizer, grammars
        self.loader = AdapterLoader(executor)
        self.placement = Placement(settings.num_pages, settings.config.page_size, self.loader, tier)
        self.queue: Policy = make_policy(settings.config.fairness())
        self.blocked: Blocked | str | None = None  # why the last step admitted no more
        self.admitted: list[Draft] = []  # by the last step
        self._speculator = Speculator(settings.config.drafting())
        self._sampler = sampler
        self._texts = TokenTexts(tokenizer)
        self._drafts: dict[Sequence, Draft] = {}
        self._ids = itertools.count()
        self._seeds = random.Random()

    @property
    def running(self) -> list[Sequence]:
        return self.placement.running

    @property
    def is_idle(self) -> bool:
        return not self.running and not len(self.queue)

    @property
    def num_waiting(self) -> int:
        return len(self.queue)

    # -- requests --------------------------------------------------------------

    def add(
        self,
        request: GenerateRequest,
        adapter: int,
        namespace: Namespace,
        grammar: Grammar | None = None,
    ) -> list[Draft]:
        """Queue all samples of a request. Raises RequestError or OutOfCapacity; then none is.

        A grammar is compiled here unless it is given, which stops the engine for that time.
        """
        adapter_pages = self.placement.adapters.size(adapter)
        waiting = len(self.queue)
        limit = check_request(request, self.settings, self.vocab_size, waiting, adapter_pages)
        grammar = grammar or self.grammars.compile(request.sampling)
        sequences = [
            self._sequence(request, limit, adapter, namespace, is_constrained=grammar is not None)
            for _ in range(request.sampling.n)
        ]
        drafts = [
            self._draft(request, index, sequence, grammar)
            for index, sequence in enumerate(sequences)
        ]
        for draft in drafts:
            self._drafts[draft.sequence] = draft
            self.queue.push(draft.sequence)
        self.counts.requests += 1
        return drafts

    def abort(self, drafts: Iterable[Draft]) -> list[Event]:
        """Stop unfinished drafts; what they made so far stays in their output."""
        return [self._end(d, FinishReason.ABORT) for d in list(drafts) if d.output is None]

    def fail(self, drafts: Iterable[Draft], why: str) -> list[Event]:
        """End drafts that cannot go on; nothing of them is shared any more."""
        failed = [draft for draft in drafts if draft.output is None]
        for draft in failed:
            draft.sequence.is_private = True
        return [self._end(draft, FinishReason.ERROR, why) for draft in failed]

    def end_late(self, drafts: Iterable[Draft], why: str, retry_after_s: float) -> list[Event]:
        """End drafts that wait and whose first token would come too late."""
        late = [draft for draft in drafts if draft.output is None]
        self.counts.late += len(late)
        for draft in late:
            draft.retry_after_s = retry_after_s
        return [self._end(draft, FinishReason.DEADLINE, why) for draft in late]

    def fail_running(self, why: str) -> list[Event]:
        """Fail those that run; all, when none does and the fault must lie with those that wait."""
        stuck = [self._drafts[s] for s in self.running or list(self._drafts)]
        events = self.fail(stuck, why)
        for draft in stuck:  # the fault may have come when it had just ended
            if draft.sequence in self._drafts:
                self._forget(draft.sequence)
        return events

    def uses_adapter(self, index: int) -> bool:
        return any(sequence.adapter == index for sequence in self._drafts)

    def most_tokens(self, adapter: int) -> int:
        """Of one request in flight with this adapter, prompt and output."""
        return max(
            (s.prompt_len + s.max_new_tokens for s in self._drafts if s.adapter == adapter),
            default=0,
        )

    # -- one step --------------------------------------------------------------

    def step(self) -> list[Event]:
        """Plan, make room, run, sample. Returns the news; empty when there was nothing to do."""
        config, placement = self.settings.config, self.placement
        placement.restore_more()
        limits = Limits(
            config.token_budget,
            placement.num_available,
            config.page_size,
            config.max_running,
            placement.adapters.sizes,
            config.adapter_cluster,
        )
        victim = displaced(placement.running, self.queue, placement.look_up, limits)
        if victim is not None:
            self._preempt(victim)
            victim.is_displaced = True
            limits = dataclasses.replace(limits, available_pages=placement.num_available)
        self._speculator.propose(placement.running)
        if config.jump_forward:
            propose_forced(
                placement.running, lambda s, n: self._drafts[s].forced(n), config.jump_tokens
            )
        step = next_step(
            placement.running, self.queue, placement.look_up, limits, placement.cached_tokens()
        )
        self.blocked = step.blocked
        for sequence in step.preempted:
            self._preempt(sequence)
        lost = self._admit(step.admitted)
        chunks = [
            chunk
            for chunk in step.chunks
            if chunk.sequence in self._drafts and not chunk.sequence.num_restoring
        ]
        work = [self._work(chunk) for chunk in chunks if placement.reserve(chunk)]
        self.counts.evicted_pages = placement.num_evicted
        if not work:
            return lost
        if config.adapter_prefetch and placement.adapters.num_absent and len(self.queue):
            following = self.queue.order(placement.cached_tokens(), [])
            placement.prefetch(itertools.islice(following, PREFETCH_AHEAD))
        done, logits, events = self._forward(work)
        return lost + events + self._collect(done, logits)

    def _admit(self, sequences: list[Sequence]) -> list[Event]:
        """Start them. One whose adapter cannot be loaded ends with that error, alone."""
        self.admitted, events = [], list[Event]()
        for sequence in sequences:
            draft = self._drafts[sequence]
            try:
                cached = self.placement.admit(sequence)
            except Exception as error:
                logger.exception("a sequence could not be started, adapter %d", sequence.adapter)
                events += self.fail([draft], f"{type(error).__name__}: {error}")
                continue
            self.queue.admit(sequence, cached)
            self.counts.cached_tokens += cached
            self.admitted.append(draft)
        return events

    def _forward(self, work: list[Work]) -> tuple[list[Work], Float32, list[Event]]:
        """Compute; if that fails, compute each alone, so that only the guilty are lost."""
        try:
            logits = self.executor.forward(build_batch([one.segment for one in work]))
        except ExecutorLost:
            raise
        except Exception as error:
            logger.exception("a step of %d sequences failed", len(work))
            if len(work) == 1:
                why = f"{type(error).__name__}: {error}"
                return (
                    [],
                    np.empty((0, self.vocab_size), np.float32),
                    self.fail([work[0].draft], why),
                )
            parts = []
            for one in work:
                done, logits, events = self._forward([one])
                parts.append((done, logits.copy(), events))  # the next step takes their memory
            return (
                [one for part in parts for one in part[0]],
                np.concatenate([part[1] for part in parts]),
                [event for part in parts for event in part[2]],
            )
        self.counts.steps += 1
        self.counts.computed_tokens += sum(len(one.segment.token_ids) for one in work)
        return work, logits, []

    def _collect(self, work: list[Work], logits: Float32) -> list[Event]:
        """Sort the rows of logits to their drafts, choose tokens, end what is at its end."""
        ready, events = list[Ready](), list[Event]()
        row = 0
        for one in work:
            draft, sequence = one.draft, one.draft.sequence
            sequence.num_computed += len(one.segment.token_ids) - len(one.drafted)
            if draft.wants_prompt_logprobs and one.segment.logits_from is not None:
                rows = logits[row : row + one.num_rows]
                score_prompt(draft, rows, one.segment.logits_from, self._sampler)
            row += one.num_rows
            if sequence.num_uncomputed:
                continue
            if sequence.max_new_tokens:
                ready.append(Ready(draft, row - 1 - len(one.drafted), one.drafted))
            else:
                events.append(self._end(draft, FinishReason.LENGTH))
        if not ready:
            return events
        return events + self._sample(ready, logits)

    def _sample(self, ready: list[Ready], logits: Float32) -> list[Event]:
        """The next tokens of each draft. Each row is drawn as it would be if the guesses before it
        had been accepted one step at a time: same logits, same seed, same penalties."""
        rows = [one.draft.rows(one.drafted) for one in ready]
        indices = [one.row + i for one, own in zip(ready, rows) for i in range(len(own))]
        chosen = iter(self._sampler.choose(logits, indices, [row for own in rows for row in own]))
        events = []
        for one, own in zip(ready, rows):
            events += self._take(one, list(itertools.islice(chosen, len(own))))
        return events

    def _take(self, one: Ready, choices: list[Chosen | None]) -> list[Event]:
        """Accept choices up to the first that differs from the guess: later rows saw the guess."""
        draft, sequence, events, num_accepted = one.draft, one.draft.sequence, list[Event](), 0
        for guess, choice in itertools.zip_longest(one.drafted[: len(choices) - 1], choices):
            events += self._accept(draft, choice)
            if draft.output is not None or choice is None or choice.token_id != guess:
                break
            sequence.num_computed += 1  # the guess's keys and values are the token's own
            num_accepted += 1
        if one.drafted:
            self._judge(sequence, len(one.drafted), num_accepted)
        return events

    def _judge(self, sequence: Sequence, num_drafted: int, num_accepted: int) -> None:
        if sequence.is_constrained:
            self.counts.forced_tokens += num_drafted
            self.counts.jumped_tokens += num_accepted
        else:
            self._speculator.judge(sequence, num_drafted, num_accepted)
            self.counts.drafted_tokens += num_drafted
            self.counts.accepted_tokens += num_accepted

    def _accept(self, draft: Draft, choice: Chosen | None) -> list[Event]:
        """Give a draft its next token. One that fails takes no other with it."""
        if choice is None:
            return self.fail([draft], "no token can be chosen: the logits are not finite")
        try:
            if draft.sequence.num_generated == 0:  # siblings find the prompt from now on
                self.placement.publish(draft.sequence)
            delta = draft.accept(choice, draft.sequence.namespace[1])
        except Exception as error:
            logger.exception("an output failed")
            return self.fail([draft], f"{type(error).__name__}: {error}")
        self.counts.output_tokens += 1
        self.queue.made(draft.sequence)
        if draft.output is not None:
            self.counts.finished += 1
            self._forget(draft.sequence)
        return [Event(draft, delta)]

    # -- between two steps -----------------------------------------------------

    def retract(self) -> int:
        """Send all that run back to the queue; they go on later from what the cache still has."""
        running = list(self.running)
        for sequence in reversed(running):  # each goes to the front: the first admitted is last
            self._preempt(sequence)
        return len(running)

    def apply(self, config: EngineConfig) -> None:
        """Take new live settings; waiting sequences keep their order."""
        if config.fairness() != self.settings.config.fairness():
            waiting = sorted(self.queue, key=lambda s: s.id)
            self.queue = change_policy(
                self.queue,
                self.settings.config.fairness(),
                config.fairness(),
                waiting,
                self.running,
            )
        if config.drafting() != self._speculator.settings:
            self._speculator = Speculator(config.drafting())
        self.executor.set_num_threads(config.num_threads)
        self.settings = dataclasses.replace(self.settings, config=config)

    def forget_weights(
        self, is_affected: Callable[[Namespace], bool], rename: Callable[[Namespace], Namespace]
    ) -> None:
        """Weights of these namespaces have changed: their pages match no more.

        Sequences in flight get the new namespace and keep what they computed. Those that run
        then mix keys and values of two versions, so nothing of them is shared any more.
        """
        self.placement.drop(is_affected)
        running = set(self.running)
        for sequence in self._drafts:
            if is_affected(sequence.namespace):
                sequence.namespace = rename(sequence.namespace)
                sequence.is_private |= sequence in running

    def flush(self) -> None:
        """Empty the prefix cache; what is in use goes when it is done."""
        self.placement.drop(lambda namespace: True)

    def inspect(self, *, whole: bool = False) -> list[Event]:
        """While idle: compare the sums of pages, or (`whole`) walk over all of them.

        A fault is ours, but no reason to die: it is logged, counted and put right. Drafts that
        neither run nor wait end with an error, so that nobody waits for them for ever.
        """
        placement = self.placement
        events = self.fail(list(self._drafts.values()), "the engine lost this request; send again")
        fault = placement.whole_fault() if whole else placement.fault()
        if fault:
            logger.error("accounts of pages: %s; %s", fault, placement.rebuild())
        if events:
            logger.error("%d requests neither ran nor waited; they were ended", len(events))
        self.counts.repairs += bool(fault) + bool(events)
        return events

    def abandon(self, why: str) -> None:
        """End all drafts as failed without asking any account, and begin with new ones. No event
        tells of it: whoever listens looks at `Draft.output`."""
        drafts = list(self._drafts.values())
        self._drafts.clear()
        self._speculator = Speculator(self.settings.config.drafting())
        self.queue = make_policy(self.settings.config.fairness())
        self.placement.reset()
        self.blocked, self.admitted = None, []
        self.counts.repairs += 1
        for draft in drafts:
            draft.give_up(why)

    def check(self) -> None:
        """Assert that each page is free, cached, or owned by exactly one sequence or adapter."""
        self.placement.check()
        assert set(self.running) <= self._drafts.keys(), "a sequence runs for nobody"
        assert len(self._drafts) == len(self.running) + len(self.queue), "a draft was lost"

    # -- internals -------------------------------------------------------------

    def _sequence(
        self,
        request: GenerateRequest,
        limit: int,
        adapter: int,
        namespace: Namespace,
        *,
        is_constrained: bool,
    ) -> Sequence:
        wants, first = request.sampling.prompt_logprobs, request.sampling.prompt_logprobs_from
        return Sequence(
            next(self._ids),
            len(request.prompt),
            list(request.prompt),
            limit,
            namespace,
            is_private=not self.settings.config.prefix_cache,
            reads_cache=not wants or first > 0,
            most_cached=first if wants else sys.maxsize,
            tenant=request.tenant,
            priority=request.priority,
            adapter=adapter,
            is_constrained=is_constrained,
        )

    def _draft(
        self,
        request: GenerateRequest,
        index: int,
        sequence: Sequence,
        grammar: Grammar | None,
    ) -> Draft:
        sampling = request.sampling
        seed = self._seeds.getrandbits(63) if sampling.seed is None else sampling.seed * 1_000_003
        stream = TextStream(
            self._texts,
            sampling.stop,
            compile_regexes(sampling.stop_regex),
            include_stop=sampling.include_stop,
            skip_special_tokens=sampling.skip_special_tokens,
        )
        return Draft(
            request,
            index,
            sequence,
            stream,
            seed=seed + index,
            stop_token_ids=stop_ids(request, self.tokenizer),
            vocab_size=self.vocab_size,
            matcher=grammar.start() if grammar else None,
        )

    def _work(self, chunk: Chunk) -> Work:
        sequence = chunk.sequence
        draft = self._drafts[sequence]
        drafted = sequence.proposed[: chunk.num_drafted]
        start, most = sequence.num_computed, sequence.num_tokens + len(drafted)
        end = min(start + chunk.num_tokens, most)  # more may be cached than was planned
        logits_from: int | None = None
        first = draft.request.sampling.prompt_logprobs_from
        if draft.lacks_prompt_logprobs and first < end and start < sequence.prompt_len:
            logits_from = max(start, first)
        elif end - len(drafted) == sequence.num_tokens and sequence.max_new_tokens:
            logits_from = sequence.num_tokens - 1
        tokens = sequence.tokens[start:end] + drafted
        segment = Segment(tokens, start, sequence.pages, sequence.adapter, logits_from)
        return Work(draft, segment, 0 if logits_from is None else end - logits_from, drafted)

    def _preempt(self, sequence: Sequence) -> None:
        self.counts.preemptions += 1
        sequence.num_preemptions += 1
        self.queue.push(sequence, front=True)
        self.placement.release(sequence)

    def _end(self, draft: Draft, reason: FinishReason, why: str | None = None) -> Event:
        self.counts.finished += reason is FinishReason.LENGTH
        delta = draft.finish(reason, why)
        self._forget(draft.sequence)
        return Event(draft, delta)

    def _forget(self, sequence: Sequence) -> None:
        self.queue.discard(sequence)
        self._speculator.forget(sequence)
        if sequence in self.running:
            self.queue.finish(sequence)
            self.placement.release(sequence)
        del self._drafts[sequence]
