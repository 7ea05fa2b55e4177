"""Keys, prefixes and adapters share one pool: each page has one owner and holds what that wrote.

The model of the pool remembers what was written to each page last. A copy that was begun beside a
step may write at any later moment, until it is finished or dropped.
"""

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from planted import assert_found

from evolute.engine.memory import Residency
from evolute.engine.scheduling import Limits, Placement, Sequence, next_step
from evolute.engine.scheduling.policies import Fcfs

TOTAL, BUDGET, MOST = 14, 12, 4
adapters = st.integers(0, 3)
prompts = st.lists(st.integers(0, 1), min_size=1, max_size=9)


class Copies:
    """A loader whose copies beside a step take as long as it pleases the test."""

    def __init__(self, content):
        self.content, self.version, self.pending = content, {}, {}

    def load(self, adapter, pages):
        self.pending.pop(adapter, None)
        self._write(adapter, pages)

    def start(self, adapter, pages):
        self.pending[adapter] = list(pages)

    def run(self, adapter):
        self._write(adapter, self.pending[adapter])

    def finish(self, adapter):
        self._write(adapter, self.pending.pop(adapter))

    def drop(self, adapter):
        self.pending.pop(adapter, None)

    def _write(self, adapter, pages):
        for i, page in enumerate(pages):
            self.content[page] = ("adapter", adapter, self.version[adapter], i)


def machine(residency=Residency, placement_class=Placement, page_size=2):
    class Pool(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            self.content = {}
            self.copies = Copies(self.content)
            self.placement = placement_class(TOTAL, page_size)
            self.placement.adapters = residency(self.copies)
            self.placement.prefetch_share = 2
            self.queue, self.ids = Fcfs(), itertools.count()
            self.written = {}  # running sequence -> page number -> what it found or wrote there

        @initialize(sizes=st.lists(st.integers(1, 5), min_size=4, max_size=4))
        def tenants(self, sizes):
            for adapter, size in enumerate(sizes):
                self.load(adapter, size)

        def flying(self, adapter):
            every = [*self.placement.running, *self.queue]
            return [s for s in every if s.adapter == adapter]

        @rule(adapter=adapters, size=st.integers(1, 6))
        def load(self, adapter, size):
            longest = max(
                (s.prompt_len + s.max_new_tokens for s in self.flying(adapter)), default=1
            )
            if size + -(-longest // page_size) > TOTAL:
                return
            before = self.copies.version.get(adapter, 0)
            self.copies.version[adapter] = before + 1
            if not self.placement.resize_adapter(adapter, size):
                self.copies.version[adapter] = before
                return
            self.placement.drop(lambda n: n[0] == adapter)
            for sequence in self.flying(adapter):
                sequence.namespace = (adapter, before + 1, "")
                sequence.is_private |= sequence in self.placement.running

        @rule(adapter=adapters)
        def unload(self, adapter):
            if not self.flying(adapter):
                self.placement.remove_adapter(adapter)
                self.copies.version.pop(adapter, None)
                self.placement.drop(lambda n: n[0] == adapter)

        @rule(adapter=st.integers(-1, 3), prompt=prompts, output=st.integers(1, 9))
        def add(self, adapter, prompt, output):
            size = self.placement.adapters.size(adapter)
            known = adapter < 0 or adapter in self.copies.version
            if not known or len(prompt) + output > (TOTAL - size) * page_size:
                return
            namespace = (adapter, self.copies.version.get(adapter, 0), "")
            sequence = Sequence(
                next(self.ids), len(prompt), list(prompt), output, namespace, adapter=adapter
            )
            self.queue.push(sequence)

        @precondition(lambda self: self.placement.running or len(self.queue))
        @rule(prefetch=st.booleans(), count=st.integers(1, 3))
        def steps(self, prefetch, count):
            while count and (self.placement.running or len(self.queue)):
                self.step(prefetch)
                self.each_page_holds_what_its_owner_wrote()
                count -= 1

        def step(self, prefetch):
            placement, done = self.placement, 0
            limits = Limits(
                BUDGET, placement.num_available, page_size, MOST, placement.adapters.sizes
            )
            step = next_step(placement.running, self.queue, placement.look_up, limits)
            for sequence in step.preempted:
                self.leave(sequence)
                self.queue.push(sequence, front=True)
            for sequence in step.admitted:
                self.queue.admit(sequence, 0)
                placement.admit(sequence)
                self.written[sequence] = {
                    i: (sequence.namespace, tuple(sequence.tokens[: (i + 1) * page_size]))
                    for i in range(sequence.num_shared_pages)
                }
            for chunk in step.chunks:
                assert placement.reserve(chunk), "a planned chunk has no room"
            if prefetch:
                placement.prefetch(self.queue)
            for chunk in step.chunks:
                self.compute(chunk)
                done += chunk.num_tokens
            assert done or step.preempted, "nothing was done"

        def compute(self, chunk):
            sequence = chunk.sequence
            self.adapter_is_there(sequence.adapter)
            start = sequence.num_computed
            sequence.num_computed += chunk.num_tokens
            for i in range(start // page_size, -(-sequence.num_computed // page_size)):
                end = min(sequence.num_computed, (i + 1) * page_size)
                key = (sequence.namespace, tuple(sequence.tokens[:end]))
                self.content[sequence.pages[i]] = self.written[sequence][i] = key
            if sequence.num_uncomputed == 0:
                if sequence.num_generated == 0:
                    self.placement.publish(sequence)
                sequence.tokens.append(sum(sequence.tokens) % 2)
                if sequence.num_generated == sequence.max_new_tokens:
                    self.leave(sequence)

        @precondition(lambda self: self.placement.running)
        @rule(data=st.data())
        def abort(self, data):
            self.leave(data.draw(st.sampled_from(self.placement.running)))

        @precondition(lambda self: self.copies.pending)
        @rule(data=st.data())
        def copy(self, data):
            self.copies.run(data.draw(st.sampled_from(sorted(self.copies.pending))))

        def leave(self, sequence):
            self.placement.release(sequence)
            del self.written[sequence]

        @invariant()
        def each_page_holds_what_its_owner_wrote(self):
            self.placement.check()
            for sequence, written in self.written.items():
                self.adapter_is_there(sequence.adapter)
                for i, key in written.items():
                    assert self.content[sequence.pages[i]] == key, "a page in use was written to"

        def adapter_is_there(self, adapter):
            size = self.placement.adapters.size(adapter)
            if adapter < 0 or not size:
                return
            pages = self.placement.adapters._residents[adapter].pages
            version = self.copies.version[adapter]
            want = [("adapter", adapter, version, i) for i in range(size)]
            assert [self.content.get(page) for page in pages] == want, "an adapter is not there"

    return Pool


@pytest.mark.parametrize("page_size", [1, 2, 4])
def test_pages_hold_what_their_owners_wrote(page_size):
    """Some 15,000 events in all."""
    run = settings(max_examples=60, stateful_step_count=40, deadline=None)
    run_state_machine_as_test(machine(page_size=page_size), settings=run)


class EvictsHeld(Residency):
    def evict(self, count, *, expected=False):
        for adapter, resident in self._residents.items():
            if resident.users:
                resident.users = 0
                self._idle[adapter] = None
                self.num_idle_pages += len(resident.pages)
        return super().evict(count, expected=expected)


class UsesACopyThatIsNotDone(Residency):
    def hold(self, adapter):
        if adapter in self._residents:
            self._residents[adapter].is_loading = False
        return super().hold(adapter)


class LetsACopyWriteAfterItsPagesAreGone(Residency):
    def _take(self, adapter):
        pending = self._loader.pending.get(adapter)
        pages = super()._take(adapter)
        if pending:
            self._loader.pending[adapter] = pending
        return pages


class CostsNothing(Residency):
    def cost(self, adapter):
        return 0


class CostsOnlyWhenAbsent(Residency):
    def cost(self, adapter):
        return 0 if self.is_resident(adapter) else self.size(adapter)


class ForgetsToLoadANewVersion(Residency):
    def resize(self, adapter, num_pages, extra):
        loader = self._loader
        does = {"load": lambda *_: None, "finish": lambda _, *args: loader.finish(*args)}
        self._loader = type("Nothing", (), does)()
        rest = super().resize(adapter, num_pages, extra)
        self._loader = loader
        return rest


class LosesPagesOfASmallerVersion(Residency):
    def resize(self, adapter, num_pages, extra):
        super().resize(adapter, num_pages, extra)
        return []


class ForgetsThatItIsIdle(Residency):
    def release(self, adapter):
        super().release(adapter)
        if self.size(adapter) and not self.users(adapter):
            self.num_idle_pages -= 1


class KeepsTheAdapterOfTheDead(Placement):
    def release(self, sequence):
        adapter, sequence.adapter = sequence.adapter, -1
        super().release(sequence)
        sequence.adapter = adapter


class PrefetchesOverOthers(Placement):
    def prefetch(self, sequences):
        for sequence in sequences:
            size = self.adapters.size(sequence.adapter)
            if size and not self.adapters.is_resident(sequence.adapter):
                running = [p for s in self.running for p in s.pages[s.num_shared_pages :]]
                if len(running) >= size:
                    self.adapters.put(sequence.adapter, running[:size], in_background=True)
                    return


@pytest.mark.parametrize(
    "bug",
    [
        EvictsHeld,
        UsesACopyThatIsNotDone,
        LetsACopyWriteAfterItsPagesAreGone,
        CostsNothing,
        CostsOnlyWhenAbsent,
        ForgetsToLoadANewVersion,
        LosesPagesOfASmallerVersion,
        ForgetsThatItIsIdle,
        KeepsTheAdapterOfTheDead,
        PrefetchesOverOthers,
    ],
)
def test_a_planted_bug_is_found(bug):
    classes = {"placement_class": bug} if issubclass(bug, Placement) else {"residency": bug}
    assert_found(machine(**classes))
