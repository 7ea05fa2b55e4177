"""The policies written plainly: everything is sorted anew whenever somebody asks.

Nothing is kept from one look to the next, so nothing can be out of date: what the engine's own
policies, which keep almost everything, are compared with (`test_kept_schedules.py`).
"""

from itertools import chain, islice

from evolute.engine.scheduling.policies import ageing, arrival, deficit
from evolute.engine.scheduling.policies.counter import Vtc
from evolute.engine.scheduling.policies.priority import Priority
from evolute.engine.scheduling.step import Chunk, Step, _add_drafted, _Admission, _fit, _Outlook
from evolute.engine.scheduling.step import _Batch as Batch
from evolute.engine.scheduling.step import _preempt as preempt


def rank(sequence, cached_tokens):
    if sequence.passed_over >= ageing.LAST_PASS:
        return 0, 0
    level = 1 if sequence.passed_over >= ageing.MAX_PASSES else 2
    return level, -cached_tokens(sequence)


class PlainStanding:
    def __init__(self, policy):
        self.policy = policy

    def touch(self, account):
        pass

    raised = touch

    def __iter__(self):
        waiting = [a for a in self.policy.ledger.accounts.values() if a.waiting]
        return iter(sorted(waiting, key=self.policy._rank))

    def first(self):
        return next(iter(self), None)


class PlainFcfs(arrival.Fcfs):
    pass


class PlainPriority(Priority):
    def _turns(self):
        for level in sorted({s.priority for s in self._waiting}, reverse=True):
            equals = dict.fromkeys(s for s in self._queues[level] if s in self._waiting)
            yield from ageing.in_turn(equals, newest_first=self.newest_first)


class PlainLpm(arrival.Lpm):
    def order(self, cached_tokens, admitted):
        turns = arrival.Fcfs.order(self, cached_tokens, admitted)
        window = list(islice(turns, arrival.WINDOW))
        for sequence in chain(sorted(window, key=lambda s: rank(s, cached_tokens)), turns):
            num_admitted = len(admitted)
            yield sequence
            if len(admitted) == num_admitted and sequence.passed_over >= ageing.LAST_PASS:
                return


class PlainVtc(Vtc):
    def __init__(self, ledger):
        super().__init__(ledger)
        self._standing = PlainStanding(self)

    def order(self, cached_tokens, admitted):
        spent, named = self._spent(admitted, cached_tokens), set(admitted)
        while True:
            heads = []
            for account in self._standing:
                head = next((s for s in self._turns(account) if s not in named), None)
                if head is not None:
                    counter = account.counter + spent.get(account.tenant, 0.0)
                    heads.append(((counter, self._arrived[head]), head))
            if not heads:
                return
            head = min(heads, key=lambda one: one[0])[1]
            named.add(head)
            num_admitted = len(admitted)
            yield head
            if len(admitted) > num_admitted:
                price = self.ledger.price(head, cached_tokens(head))
                spent[head.tenant] = spent.get(head.tenant, 0.0) + price


class PlainDlpm(deficit.Dlpm):
    def __init__(self, ledger, quantum):
        super().__init__(ledger, quantum)
        self._standing = PlainStanding(self)

    def _window(self, step):
        queues, is_any_left = [], False
        for account in self._standing:
            if len(queues) == deficit.WINDOW:
                break
            if step.deficit(account) <= 0 or not step.num_left(account):
                continue
            is_any_left = True
            if account.tenant not in step.held:
                queue = [s for s in self._turns(account) if s not in step.seen]
                queues += [queue] if queue else []
        longest = max(map(len, queues), default=0)
        in_turn = [queue[i] for i in range(longest) for queue in queues if i < len(queue)]
        return in_turn[: deficit.WINDOW], is_any_left

    def _ranked(self, window, cached_tokens):
        accounts = self.ledger.accounts
        return sorted(
            window, key=lambda s: (bool(accounts[s.tenant].running), rank(s, cached_tokens))
        )


def plain_step(running, waiting, look_up, limits, cached_tokens=None):
    """`next_step`, one thing after the other; what is cached is looked up each time."""
    step = Step()
    keep = preempt(list(running), limits, step)
    decodes = [s for s in keep if s.num_uncomputed == 1]
    pages = limits.available_pages
    for sequence in decodes:
        pages -= sequence.pages_for(1, limits.page_size)
        step.chunks.append(Chunk(sequence, 1))
    budget = max(limits.token_budget - len(decodes), 0)
    for sequence in sorted((s for s in keep if s.num_uncomputed > 1), key=waiting.turn):
        count, pages = _fit(sequence, min(budget, sequence.num_uncomputed), pages, limits)
        budget -= count
        step.chunks += [Chunk(sequence, count)] if count else []
    if step.preempted:
        step.blocked = "memory is short: those that run go on first"
        return step
    outlook = _Outlook(Batch.of(keep, limits.page_size), look_up, limits)
    admission = _Admission(step, outlook, limits, budget, pages, lambda s: look_up(s).num_cached)
    admission.run(waiting)
    _add_drafted(step, *admission.left, limits.page_size)
    return step
