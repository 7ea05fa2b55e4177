"""What serving a sequence costs, and who has been charged how much.

    Cost            tokens, a measured polynomial, or residency in memory (VTC, section 4.2)
    Predictor       how many tokens will this tenant's next output have?
    Ledger          accounts by tenant; charged, refunded, never lost

Service of a tenant = sum over its sequences of h(prompt tokens computed, output tokens made),
divided by its weight. Prompt tokens are charged at admission, else one tenant fills the batch
before it is charged; what was charged ahead and not used is refunded at the end.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from evolute.engine.scheduling.policies.ageing import Waiting
from evolute.engine.scheduling.policies.policy import Share
from evolute.engine.scheduling.sequence import Sequence

RECENT = 5  # outputs whose mean length predicts the next (VTC, section 4.4)


@dataclass(frozen=True, slots=True)
class Cost:
    """h(p, q) = fixed + prompt p + output q + product pq + square q^2, for p and q tokens."""

    prompt: float = 1.0
    output: float = 2.0
    product: float = 0.0
    square: float = 0.0
    fixed: float = 0.0

    def of_prompt(self, computed: int) -> float:
        return self.fixed + self.prompt * computed

    def of_output(self, prompt_len: int, first: int, last: int) -> float:
        """Of output tokens number `first` + 1 to `last`."""
        per_token = self.output + self.product * prompt_len
        return per_token * (last - first) + self.square * (last**2 - first**2)


COSTS = {
    "tokens": Cost(),
    # the paper's profile of a 7B model on an A10G, in its units
    "profiled": Cost(2.1, 1.0, 0.04, 0.032, 11.46),
    # token-steps in memory: each output token holds its whole context for a step
    "residency": Cost(prompt=0.0, output=0.5, product=1.0, square=0.5),
}
CostName = Literal["tokens", "profiled", "residency"]
Predictor = Callable[["Account", Sequence], int]  # output tokens to charge at admission


def predict_mean(account: Account, sequence: Sequence) -> int:
    """The mean of the tenant's last outputs; none yet: nothing is charged ahead."""
    if not account.recent:
        return 0
    return min(round(sum(account.recent) / len(account.recent)), sequence.max_new_tokens)


PREDICTORS: dict[str, Predictor] = {"none": lambda account, sequence: 0, "mean": predict_mean}


@dataclass(slots=True, eq=False)
class Account:
    """One tenant. Invariant: it is kept while it has anybody in flight."""

    tenant: str
    weight: float
    service: float = 0.0  # charged and not refunded, divided by the weight
    lifted: float = 0.0  # counted as if served, for the time it asked for nothing
    waiting: Waiting = field(default_factory=OrderedDict)
    running: dict[Sequence, None] = field(default_factory=dict)
    recent: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))

    @property
    def counter(self) -> float:
        """What the order goes by."""
        return self.service + self.lifted

    @property
    def is_idle(self) -> bool:
        return not self.waiting and not self.running


@dataclass(slots=True)
class Charge:
    """What one admitted sequence has been charged for, in tokens."""

    account: Account  # kept as long as the sequence is in flight
    num_cached: int
    prompt: int  # to be computed, counted from `num_cached`
    made: int = 0  # output tokens so far
    ahead: int = 0  # output tokens charged so far, made or not; never less than `made`
    token_price: float = 0.0  # of each output token, where that is always the same
    computed: int = 0  # of `prompt`, before it was preempted


class Ledger:
    """The accounts of all tenants that matter, and open charges of sequences in flight."""

    def __init__(self, cost: Cost, predict: Predictor, weights: dict[str, float]) -> None:
        self.cost, self.accounts = cost, dict[str, Account]()
        self._predict, self._weights = predict, weights
        self._open: dict[Sequence, Charge] = {}

    def account(self, sequence: Sequence) -> Account:
        tenant = sequence.tenant
        account = self.accounts.get(tenant)
        if account is None:
            account = Account(tenant, self._weights.get(tenant, 1.0))
            self.accounts[tenant] = account
        return account

    def price(self, sequence: Sequence, num_cached: int) -> float:
        """What `admit` would charge now, divided by the weight."""
        if sequence in self._open:
            return 0.0  # it was preempted: computing anew is the engine's doing
        account = self.account(sequence)
        ahead = self._predict(account, sequence)
        cost = self.cost.of_prompt(sequence.num_tokens - num_cached)
        return (cost + self.cost.of_output(sequence.prompt_len, 0, ahead)) / account.weight

    def admit(self, sequence: Sequence, num_cached: int) -> None:
        account = self.account(sequence)
        if sequence not in self._open:
            account.service += self.price(sequence, num_cached)
            ahead = self._predict(account, sequence)
            prompt = sequence.num_tokens - num_cached
            price = self._token_price(sequence)
            self._open[sequence] = Charge(account, num_cached, prompt, 0, ahead, price)
        account.running[sequence] = None

    def adopt(self, sequence: Sequence) -> None:
        """One whose past was charged elsewhere; what it makes from now on is charged here."""
        account, made = self.account(sequence), sequence.num_generated
        self._open[sequence] = Charge(account, 0, 0, made, made, self._token_price(sequence))
        if sequence not in account.waiting:
            account.running[sequence] = None

    def set_weights(self, weights: dict[str, float]) -> None:
        """Counters stay where they are; what comes is divided by the new weights."""
        self._weights = weights
        for tenant, account in self.accounts.items():
            weight, counter = weights.get(tenant, 1.0), account.counter
            account.service *= account.weight / weight
            account.weight, account.lifted = weight, counter - account.service

    def made(self, sequence: Sequence) -> Account | None:
        """One more output token. Returns the account if its counter has changed."""
        charge = self._open.get(sequence)
        if charge is None:
            return None  # it was admitted under another policy
        made = charge.made = charge.made + 1
        if made <= charge.ahead:
            return None
        account, charge.ahead = charge.account, made
        price = charge.token_price or self.cost.of_output(sequence.prompt_len, made - 1, made)
        account.service += price / account.weight
        return account

    def preempt(self, sequence: Sequence) -> None:
        """It goes back to the queue; `num_computed` still says how far it came."""
        self.account(sequence).running.pop(sequence, None)
        charge = self._open.get(sequence)
        if charge is not None:
            charge.computed = _computed(charge, sequence)

    def finish(self, sequence: Sequence) -> None:
        """Refund what was neither computed nor made; learn the length of the output."""
        account = self.account(sequence)
        account.running.pop(sequence, None)
        charge = self._open.pop(sequence, None)
        if charge is None:
            return
        account.recent.append(charge.made)
        self._charge_output(account, sequence, charge.ahead, charge.made)
        if charge.made == 0:
            rest = charge.prompt - _computed(charge, sequence)
            account.service -= self.cost.prompt * rest / account.weight

    def shares(self) -> list[Share]:
        waiting = [a.counter for a in self.accounts.values() if a.waiting]
        least = min(waiting, default=0.0)
        return [
            Share(
                a.tenant,
                len(a.running),
                len(a.waiting),
                a.service * a.weight,
                a.weight,
                a.counter - least,
            )
            for a in self.accounts.values()
        ]

    def _token_price(self, sequence: Sequence) -> float:
        return 0.0 if self.cost.square else self.cost.of_output(sequence.prompt_len, 0, 1)

    def _charge_output(self, account: Account, sequence: Sequence, before: int, after: int) -> None:
        account.service += self.cost.of_output(sequence.prompt_len, before, after) / account.weight


def _computed(charge: Charge, sequence: Sequence) -> int:
    now = min(max(sequence.num_computed - charge.num_cached, 0), charge.prompt)
    return max(charge.computed, now)


def parse_weights(items: tuple[str, ...]) -> dict[str, float]:
    """`("alice=2", "bob=0.5")` -> weights. Raises ValueError that names the item."""
    weights = {}
    for item in items:
        tenant, separator, text = item.rpartition("=")
        try:
            weight = float(text)
        except ValueError:
            weight = math.nan
        if not separator or not tenant or not 0 < weight < math.inf:
            raise ValueError(f"{item!r} is no weight; write TENANT=NUMBER with a number above 0.")
        weights[tenant] = weight
    return weights
