"""How is each call charged?

    Metered(backend, account, role)     a TextBackend; what it sends is reserved first

A call that the account does not allow raises BudgetSpent and is not sent. One that was sent and
failed counts as a call.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, cast

from evolute.lang.account import Account, Reservation, Spent
from evolute.lang.backend import Capabilities, Prompt, Reply, TextBackend, TextRequest
from evolute.lang.echoes import Echo
from evolute.types import BudgetSpent, Delta, Message, OutOfCapacity, RequestError

CHARS_PER_TOKEN = 3  # where a backend cannot count; few texts have fewer
NOT_SENT = (RequestError, OutOfCapacity, BudgetSpent)


class Metered:
    """Reserves the prompt's tokens and n x max_new_tokens, settles what the reply says."""

    def __init__(self, backend: TextBackend, account: Account, role: str) -> None:
        self.backend, self.account, self.role = backend, account, role

    @property
    def model_name(self) -> str:
        return self.backend.model_name

    @property
    def capabilities(self) -> Capabilities:
        return self.backend.capabilities

    async def generate(self, request: TextRequest) -> Reply:
        held = await self._reserve(request)
        try:
            reply = await self.backend.generate(request)
        except BaseException as error:
            self._give_up(held, error)
            raise
        self.account.settle(held, reply.spent)
        return reply

    async def stream(self, request: TextRequest) -> AsyncIterator[Delta | Reply]:
        held = await self._reserve(request)
        num_tokens = 0
        try:
            async with aclosing(cast(Any, self.backend.stream(request))) as items:
                async for item in items:
                    if isinstance(item, Reply):
                        self.account.settle(held, item.spent)
                    else:
                        num_tokens += len(item.token_ids) or bool(item.text)
                    yield item
        except BaseException as error:
            if held.is_open:
                self._give_up(held, error, num_tokens)
            raise
        finally:
            if held.is_open:
                self.account.settle(held, Spent(1, output_tokens=num_tokens))

    def saved(self, calls: int) -> None:
        """Calls that were not sent, because an earlier one had answered them."""
        if calls:
            self.account.saved(self.role, calls)

    async def encode(self, prompt: Prompt) -> tuple[int, ...]:
        return await self.backend.encode(prompt)

    async def decode(self, token_ids: Sequence[int]) -> str:
        return await self.backend.decode(token_ids)

    async def score(
        self, prefix: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> tuple[list[tuple[float, ...]], Spent]:
        held: list[Reservation] = []
        try:
            for one in dict.fromkeys(tuple(one) for one in continuations if one):
                held.append(self.account.reserve(self.role, len(prefix) + len(one)))
            scores, spent = await self.backend.score(prefix, continuations)
        except BaseException as error:
            for reservation in held:
                self._give_up(reservation, error)
            raise
        for reservation in held[1:]:
            self.account.cancel(reservation)
        for reservation in held[:1]:
            self.account.settle(reservation, spent)
        return scores, spent

    async def echo(self, text: str) -> Echo:
        """Only of backends with the capability `echoes`."""
        held = self.account.reserve(self.role, await self._length(Prompt.of(text)))
        try:
            found: Echo = await cast(Any, self.backend).echo(text)
        except BaseException as error:
            self._give_up(held, error)
            raise
        self.account.settle(held, found.spent)
        return found

    async def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        is_open: bool = False,
        add_generation_prompt: bool = False,
    ) -> str:
        return await self.backend.render(
            messages, tools=tools, is_open=is_open, add_generation_prompt=add_generation_prompt
        )

    async def prepare(self, prompt: Prompt) -> Spent:
        if not self.capabilities.hints:
            return Spent()
        held = self.account.reserve(self.role, await self._length(prompt))
        try:
            spent = await self.backend.prepare(prompt)
        except BaseException as error:
            self._give_up(held, error)
            raise
        self.account.settle(held, spent)
        return spent

    async def flush(self) -> None:
        await self.backend.flush()

    async def describe(self) -> Mapping[str, Any]:
        return await self.backend.describe()

    async def aclose(self) -> None:
        await self.backend.aclose()

    # -- internals ---------------------------------------------------------------

    async def _reserve(self, request: TextRequest) -> Reservation:
        sampling = request.sampling
        tokens = await self._length(request.prompt) + sampling.n * sampling.max_new_tokens
        return self.account.reserve(self.role, tokens)

    async def _length(self, prompt: Prompt) -> int:
        if self.account.left.tokens is None:
            return 0  # nobody asks
        if self.capabilities.tokens:
            return len(await self.backend.encode(prompt))
        text = prompt.text or "".join(message["content"] for message in prompt.messages)
        return -(-len(text) // CHARS_PER_TOKEN)

    def _give_up(self, held: Reservation, error: BaseException, num_tokens: int = 0) -> None:
        if isinstance(error, NOT_SENT) and not num_tokens:
            self.account.cancel(held)
        else:
            self.account.settle(held, Spent(1, output_tokens=num_tokens))
