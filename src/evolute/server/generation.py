"""One call of a client as requests to the engine: start them, merge them, count them.

    call = Call.of(...)                 the requests, with their place among the choices
    await call.outputs(engine)          one list of outputs per prompt
    await call.deltas(engine)           (choice, delta) as they come, the first of each prompt made
    usage(outputs), room_left(...)      what was used, and what may be

Choices are numbered prompt-major, sample-minor. Leaving either early aborts every request.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

from evolute.server.errors import raise_if_failed
from evolute.server.sse import Primed
from evolute.types import (
    Backend,
    Delta,
    GenerateRequest,
    Output,
    PromptTooLong,
    SamplingParams,
)

FALLBACK_MAX_TOKENS = 512  # when neither the client nor the engine names a limit
ChoiceDelta = tuple[int, Delta]  # number of the choice, what was added to it


@dataclass(frozen=True, slots=True)
class Call:
    """The requests of one HTTP call; they differ only in their prompt."""

    id: str
    requests: tuple[GenerateRequest, ...]

    @classmethod
    def of(
        cls,
        prefix: str,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        **settings: Any,  # adapter, tenant, cache_salt, deadline_s, session
    ) -> Call:
        id = f"{prefix}-{uuid.uuid4().hex}"
        several = len(prompts) > 1
        requests = tuple(
            GenerateRequest(tuple(ids), sampling, id=f"{id}-{i}" if several else id, **settings)
            for i, ids in enumerate(prompts)
        )
        return cls(id, requests)

    @property
    def num_samples(self) -> int:
        return self.requests[0].sampling.n

    async def outputs(self, engine: Backend) -> list[list[Output]]:
        """All outputs. The first failure cancels the other prompts and is raised."""
        tasks = [asyncio.ensure_future(engine.agenerate(request)) for request in self.requests]
        try:
            outputs = list(await asyncio.gather(*tasks))
        finally:
            await _cancel(tasks)
        for output in (output for group in outputs for output in group):
            raise_if_failed(output)
        return outputs

    async def deltas(self, engine: Backend) -> Primed[ChoiceDelta]:
        """Returns when each prompt has its first delta; raises what fails before that."""
        streams = [Primed(engine.stream(request)) for request in self.requests]
        tasks = [asyncio.ensure_future(stream.prime()) for stream in streams]
        try:
            await asyncio.gather(*tasks)
        except BaseException:
            await _cancel(tasks)
            for stream in streams:
                await stream.aclose()
            raise
        merged = Primed(self._merge(streams))
        await merged.prime()  # started, so that closing it closes what is behind it
        return merged

    async def _merge(self, streams: Sequence[Primed[Delta]]) -> AsyncGenerator[ChoiceDelta, None]:
        queue: asyncio.Queue[ChoiceDelta | Exception | None] = asyncio.Queue(maxsize=64)

        async def pump(position: int, stream: Primed[Delta]) -> None:
            try:
                async for delta in stream:
                    if delta.output is not None:
                        raise_if_failed(delta.output)
                    await queue.put((position * self.num_samples + delta.index, delta))
                await queue.put(None)
            except Exception as error:
                await queue.put(error)
            finally:
                await stream.aclose()

        tasks = [asyncio.ensure_future(pump(i, stream)) for i, stream in enumerate(streams)]
        try:
            left = len(tasks)
            while left:
                item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                if item is None:
                    left -= 1
                else:
                    yield item
        finally:
            await _cancel(tasks)


def usage(outputs: Sequence[Sequence[Output]]) -> dict[str, Any]:
    """Token counts of a call; a prompt counts once however many samples it has."""
    prompt = sum(group[0].prompt_tokens for group in outputs)
    completion = sum(len(output.token_ids) for group in outputs for output in group)
    cached = sum(min(output.cached_tokens for output in group) for group in outputs)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def room_left(num_prompt: int, context: int | None) -> int:
    """Tokens that an answer may have when the client sets no limit: all that the context has."""
    if context is None:
        return FALLBACK_MAX_TOKENS
    if num_prompt >= context:
        raise PromptTooLong(
            f"the conversation has {num_prompt} tokens, but the model holds {context} with its "
            "answer. Drop earlier turns."
        )
    return context - num_prompt


async def _cancel(tasks: Sequence[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
