"""Calls are reserved before they are sent and settled with what they cost."""

import asyncio

import pytest

from evolute.lang.account import Account, Budget, Spent
from evolute.lang.backend import Capabilities, Prompt, Reply, TextBackend, TextRequest
from evolute.lang.endpoints import OnTokens, as_text_backend
from evolute.lang.metered import Metered
from evolute.testing import ScriptedBackend, ScriptedTextBackend
from evolute.types import BackendError, BudgetSpent, ConfigError, NotSupported, SamplingParams


def ask(text="abc", **sampling):
    return TextRequest(Prompt.of(text), SamplingParams(**sampling))


def test_a_call_costs_what_the_reply_says():
    account = Account(Budget(calls=2, tokens=100))
    metered = Metered(ScriptedTextBackend(["four"]), account, "solver")
    reply = asyncio.run(metered.generate(ask(max_new_tokens=10)))
    assert reply.outputs[0].text == "four"
    assert account.spent == reply.spent == Spent(1, 3, 0, 5)
    assert account.by_role == {"solver": account.spent}
    assert isinstance(metered, TextBackend)


def test_what_the_budget_refuses_is_not_sent():
    backend = ScriptedTextBackend(["four"])
    account = Account(Budget(tokens=23))
    metered = Metered(backend, account, "solver")
    with pytest.raises(BudgetSpent, match="may cost 24 tokens"):
        asyncio.run(metered.generate(ask("abcd", n=2, max_new_tokens=10)))
    assert backend.requests == [] and account.left.tokens == 23
    asyncio.run(metered.generate(ask("abc", n=2, max_new_tokens=10)))
    assert account.spent == Spent(1, 3, 0, 10)


def test_a_prompt_is_estimated_where_the_backend_cannot_count():
    backend = ScriptedTextBackend(capabilities=Capabilities(completes=True))
    metered = Metered(backend, Account(Budget(tokens=11)), "r")
    with pytest.raises(BudgetSpent, match="may cost 12 tokens"):
        asyncio.run(metered.generate(ask("abcd", max_new_tokens=10)))


@pytest.mark.parametrize(
    ("error", "calls"), [(BackendError("gone"), 1), (NotSupported("no"), 0)], ids=str
)
def test_a_failed_call_counts_when_it_was_sent(error, calls):
    account = Account(Budget(calls=3, tokens=100))
    metered = Metered(ScriptedTextBackend([error]), account, "r")
    with pytest.raises(type(error)):
        asyncio.run(metered.generate(ask(max_new_tokens=10)))
    assert account.spent == Spent(calls) and account.left == Budget(3 - calls, 100)


def test_a_stream_is_settled_at_its_end_and_when_it_is_left():
    account = Account(Budget(calls=3, tokens=100))
    metered = Metered(ScriptedTextBackend(["four"]), account, "r")

    async def read(count):
        items, stream = [], metered.stream(ask(max_new_tokens=10))
        async for item in stream:
            items.append(item)
            if len(items) == count:
                break
        await stream.aclose()
        return items

    items = asyncio.run(read(99))
    assert "".join(item.text for item in items[:-1]) == "four"
    assert isinstance(items[-1], Reply) and account.spent == Spent(1, 3, 0, 5)
    asyncio.run(read(1))
    assert account.spent.calls == 2 and account.spent.output_tokens == 10
    assert account.left.calls == 1


def test_scores_and_hints_are_charged():
    account = Account(Budget(calls=4, tokens=100))
    metered = Metered(ScriptedTextBackend(), account, "r")
    scores, spent = asyncio.run(metered.score([1, 2], [[13], [13, 24], [], [13]]))
    assert scores == [(-0.3,), (-0.3, -0.4), (), (-0.3,)]
    assert spent == Spent(2, 7) == account.spent
    asyncio.run(metered.prepare(Prompt.of("abc")))
    assert account.spent == Spent(3, 10) and account.left == Budget(1, 90)


def test_anything_that_answers_is_taken():
    scripted = ScriptedTextBackend()
    assert as_text_backend(scripted) is scripted
    assert isinstance(as_text_backend(ScriptedBackend()), OnTokens)
    assert isinstance(OnTokens(ScriptedBackend()), TextBackend)
    with pytest.raises(ConfigError, match="str is no backend"):
        as_text_backend("http://localhost")
