"""How is one expression carried out?

    await execute(stream, expr)     gens, selects, roles, other streams' variables, thinking
    await hint(run, prompt)         compute the prompt before several go on from it

Everything here waits on the backend; what does not is `Stream`'s own.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from evolute.lang.backend import Prompt, Reply, Text, TextRequest
from evolute.lang.choices import decide
from evolute.lang.expressions import (
    Expr,
    Gen,
    RoleBegin,
    RoleEnd,
    Select,
    Thinking,
    VariableOf,
    leaves,
    reasoning_name,
)
from evolute.lang.gens import logprob_start, sampling_of, wants_logprobs
from evolute.lang.interpreter.made import meta_of, pieces_of, token_entries, written
from evolute.lang.interpreter.prompts import to_send, told_of, turn_begin, turn_end
from evolute.lang.interpreter.whole import WholeTurn, begins_whole, say, take
from evolute.lang.thinking import split
from evolute.lang.tools import as_tools
from evolute.types import EvoluteError, NotSupported

if TYPE_CHECKING:
    from evolute.lang.interpreter.stream import Run, Stream

logger = logging.getLogger(__name__)


async def execute(stream: Stream, expr: Expr) -> None:
    """Raises whatever the backend raises; the stream names the gen."""
    if isinstance(expr, RoleEnd):
        await _end_turn(stream, expr)
    elif stream.turn is not None and not isinstance(expr, RoleBegin):
        await take(stream, expr)
    elif isinstance(expr, Gen):
        await _gen(stream, expr)
    elif isinstance(expr, Select):
        await _select(stream, expr)
    elif isinstance(expr, RoleBegin):
        stream.follow(await turn_begin(stream.now, expr.role, stream.run.backend))
        if begins_whole(stream.run, expr.role):
            stream.turn = WholeTurn()
    elif isinstance(expr, VariableOf):
        stream.append_text(str(await expr.source.read(expr.name)))
    elif isinstance(expr, Thinking):
        await _thinking(stream, expr)
    else:
        raise NotSupported(f"{type(expr).__name__} cannot be appended to a prompt that runs.")


async def hint(run: Run, prompt: Prompt) -> None:
    """A hint saves and decides nothing: when it fails, the program goes on without."""
    if not run.backend.capabilities.hints:
        return
    try:
        await run.backend.prepare(prompt)
    except EvoluteError as error:
        logger.info("the prefix of %s was not computed beforehand: %s", run.name, error)


# -- internals ---------------------------------------------------------------


async def _end_turn(stream: Stream, end: RoleEnd) -> None:
    if stream.turn is not None:
        for expr in await say(stream):
            await _any(stream, expr)
    stream.follow(await turn_end(stream.now, end.role, stream.run.backend))


async def _gen(stream: Stream, gen: Gen) -> None:
    texts, metas, is_many = await _made(stream, gen, is_streamed=stream.run.is_streaming)
    _keep(stream, gen.name, texts, metas, is_many)


async def _made(
    stream: Stream, gen: Gen, *, is_streamed: bool
) -> tuple[list[str], list[dict[str, Any]], bool]:
    """Text and meta information of each sample, and whether several were asked for. The first
    sample is appended."""
    request = await _request(stream, gen)
    is_many = request.sampling.n > 1
    is_streamed = is_streamed and not is_many
    if is_streamed:
        reply = await _streamed(stream, gen, request)
    else:
        reply = await _answer(stream, request)
    wanted = bool(gen.options.return_text_in_logprobs)
    metas = [
        await meta_of(reply, index, stream.run.backend, request.wants_logprobs, with_text=wanted)
        for index in range(len(reply.outputs))
    ]
    for meta in metas:
        meta["rewrites"] = stream.now.rewrites
    first, backend = reply.outputs[0], stream.run.backend
    if reply.tool_calls and reply.tool_calls[0]:
        pieces = await written(first, backend)
        now = stream.now.calling(pieces, first.text, metas[0]["tool_calls"])
    else:
        now = stream.now.then(*await pieces_of(first, backend))
    stream.become(now, is_shown=is_streamed)
    return [output.text for output in reply.outputs], metas, is_many


async def _answer(stream: Stream, request: TextRequest) -> Reply:
    """From what an earlier call wrote too much, else by a call."""
    backend = stream.run.backend
    if stream.surplus is None:
        return await backend.generate(request)
    reply = await stream.surplus.gen(request, backend)
    backend.saved(reply.spent.calls_saved)
    return reply


def _keep(
    stream: Stream,
    name: str | None,
    texts: list[str],
    metas: list[dict[str, Any]],
    is_many: bool,
) -> None:
    if name is not None:
        value, meta = (texts, metas) if is_many else (texts[0], metas[0])
        stream.variables.set(name, value, meta)
        stream.growth.end(name, texts[0], metas[0])


async def _request(stream: Stream, gen: Gen) -> TextRequest:
    run = stream.run
    sampling = sampling_of(gen, run.settings, run.backend.capabilities, _seed(stream))
    wants = wants_logprobs(gen, run.settings)
    start = logprob_start(gen, run.settings)
    if start is not None:
        sampling = replace(sampling, prompt_logprobs=True, prompt_logprobs_from=start)
    if (wants or sampling.top_logprobs) and not run.backend.capabilities.logprobs:
        raise NotSupported(f"{run.backend.model_name} tells no log-probabilities; do not ask.")
    if gen.options.tools and not run.backend.capabilities.tools:
        raise NotSupported(f"{run.backend.model_name} has no tools; leave `tools` out.")
    tools = as_tools(gen.options.tools)
    stream.become(await told_of(stream.now, offered(tools, gen), run.backend))
    prompt = to_send(stream.now, run.backend.capabilities)
    if run.gate is not None:
        await run.gate.enter(run, prompt)
    return TextRequest(
        prompt,
        sampling,
        tools=tools,
        tool_choice=gen.options.tool_choice,
        wants_logprobs=wants,
    )


def offered(tools: Sequence[Mapping[str, Any]], gen: Gen) -> Sequence[Mapping[str, Any]]:
    """What the model is told of."""
    return () if gen.options.tool_choice == "none" else tools


async def _streamed(stream: Stream, gen: Gen, request: TextRequest) -> Reply:
    if gen.name is not None:
        stream.growth.begin(gen.name)
    reply: Reply | None = None
    async with aclosing(_items(stream, request)) as items:
        async for item in items:
            if isinstance(item, Reply):
                reply = item
                continue
            stream.growth.add(item.text)
            if gen.name is not None:
                meta: dict[str, Any] = {"id": request.id}
                if request.wants_logprobs:
                    meta["output_token_logprobs"] = token_entries(item.token_ids, item.logprobs)
                stream.growth.chunk(gen.name, item.text, meta)
    assert reply is not None, "a stream ends with its reply"
    return reply


def _items(stream: Stream, request: TextRequest) -> Any:
    return stream.run.backend.stream(request)


async def _select(stream: Stream, select: Select) -> None:
    run = stream.run
    prompt = to_send(stream.now, run.backend.capabilities)
    if run.gate is not None:
        await run.gate.enter(run, prompt)
    decision = await decide(
        run.backend, prompt, select.choices, select.method, select.temperature, _seed(stream)
    )
    stream.append_text(decision.decision)
    if select.name is not None:
        stream.variables.set(select.name, decision.decision, dict(decision.meta_info))
        stream.growth.end(select.name, decision.decision)


async def _thinking(stream: Stream, thinking: Thinking) -> None:
    """What was thought leaves the prompt; the gen's variable is the answer alone."""
    if stream.run.is_streaming:
        raise NotSupported("separate_reasoning needs the whole text; run without stream=True.")
    for item in leaves(thinking.inner):
        if not isinstance(item, Gen):
            await _any(stream, item)
            continue
        before = stream.now
        texts, metas, is_many = await _made(stream, item, is_streamed=False)
        parts = [split(text, thinking.model_type) for text in texts]
        if parts[0][0]:
            stream.become(before.then(Text(parts[0][1])))
        _keep(stream, item.name, [answer for _, answer in parts], metas, is_many)
        if item.name is not None:
            thoughts = [thought for thought, _ in parts]
            stream.variables.set(reasoning_name(item.name), thoughts if is_many else thoughts[0])


async def _any(stream: Stream, expr: Expr) -> None:
    if stream.is_instant(expr):
        stream.do_at_once(expr)
    else:
        await execute(stream, expr)


def _seed(stream: Stream) -> int | None:
    """Each gen of a seeded run draws by a seed of its own, the same in every run."""
    if stream.run.settings.seed is None:
        return None
    stream.num_drawn += 1
    place = (stream.run.settings.seed, stream.path, stream.num_drawn)
    return random.Random(repr(place)).getrandbits(31)
