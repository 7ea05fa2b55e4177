"""How does one call write a whole turn, for endpoints that only chat?

    begins_whole(run, role)      whether such a turn begins
    WholeTurn().parts            what the program says in it, in order
    await take(stream, expr)     one more expression of it
    await say(stream)            the turn ends: ask once, and give every gen its text

A turn that is one gen and texts behind it is asked as ever: nothing is saved there. In the others
the limit on tokens is the function's `num_api_spec_tokens` for the whole turn; the `max_tokens` of
single gens are not held.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from evolute.lang.backend import Reply, TextRequest
from evolute.lang.expressions import Constant, Expr, Gen, ScopeBegin, ScopeEnd, VariableOf
from evolute.lang.gens import sampling_of, wants_logprobs
from evolute.lang.interpreter.made import meta_of
from evolute.lang.interpreter.prompts import to_send
from evolute.lang.speculation import Hole, fill
from evolute.lang.speculation.surplus import refuse_unless_alike
from evolute.types import NotSupported, ProgramError, SamplingParams

if TYPE_CHECKING:
    from evolute.lang.interpreter.stream import Run, Stream

MAX_SHOWN_CHARS = 120


@dataclass(slots=True)
class WholeTurn:
    """Constants, edges of scopes and gens."""

    parts: list[Expr] = field(default_factory=list)

    @property
    def gens(self) -> list[Gen]:
        return [part for part in self.parts if isinstance(part, Gen)]

    @property
    def is_plain(self) -> bool:
        """At most one gen, and no text before it."""
        texts = [part for part in self.parts if not isinstance(part, ScopeBegin | ScopeEnd)]
        return len(self.gens) == 0 or (len(self.gens) == 1 and isinstance(texts[0], Gen))

    def pattern(self, samplings: dict[int, SamplingParams]) -> list[str | Hole]:
        """Holes are called by the places of their gens among the parts."""
        found: list[str | Hole] = []
        for place, part in enumerate(self.parts):
            if isinstance(part, Gen):
                found.append(Hole(str(place), samplings[place].stop))
            elif isinstance(part, Constant):
                found.append(part.text)
        return found


def begins_whole(run: Run, role: str) -> bool:
    can = run.backend.capabilities
    return run.num_api_spec_tokens is not None and role == "assistant" and not can.completes


async def take(stream: Stream, expr: Expr) -> None:
    """Raises NotSupported for what a model cannot be asked to write."""
    turn = stream.turn
    assert turn is not None
    if isinstance(expr, VariableOf):
        expr = Constant(str(await expr.source.read(expr.name)))
    if not isinstance(expr, Gen | Constant):
        raise NotSupported(
            f"{expr} cannot stand in a turn that one call writes; leave num_api_spec_tokens out."
        )
    turn.parts.append(expr)


async def say(stream: Stream) -> list[Expr]:
    """What is still to be done one after the other: nothing, or all of it when the turn is plain
    or never came out as the program says and the endpoint goes on within a turn.

    Raises ProgramError with the model's words when it does not, ConfigError for gens of different
    sampling.
    """
    turn, stream.turn = stream.turn, None
    assert turn is not None
    if turn.is_plain:
        return turn.parts
    run, samplings = stream.run, _samplings(stream, turn)
    assert run.num_api_spec_tokens is not None
    together = replace(next(iter(samplings.values())), max_new_tokens=run.num_api_spec_tokens)
    prompt = to_send(stream.now, run.backend.capabilities)
    if run.gate is not None:
        await run.gate.enter(run, prompt)
    request = TextRequest(prompt, together)
    answer = await fill(request, run.backend, turn.pattern(samplings), run.speculation)
    if answer.texts is None:
        if run.backend.capabilities.continues_turn:
            return turn.parts
        raise _differs(turn, answer.reply)
    run.backend.saved(len(answer.texts) - 1)
    for place, part in enumerate(turn.parts):
        if isinstance(part, Gen):
            await _set(stream, part, answer.texts[str(place)], answer.reply)
        else:
            stream.do_at_once(part)
    return []


# -- internals ---------------------------------------------------------------


def _samplings(stream: Stream, turn: WholeTurn) -> dict[int, SamplingParams]:
    """Of each gen by its place. All must be alike, but for stops and lengths."""
    run = stream.run
    found: dict[int, SamplingParams] = {}
    for place, part in enumerate(turn.parts):
        if not isinstance(part, Gen):
            continue
        own = sampling_of(part, run.settings, run.backend.capabilities)
        if own.n > 1 or own.is_constrained or part.options.tools or _told(part, run):
            raise NotSupported(
                f"{part} asks for samples, a form, tools or log-probabilities, which no part of a "
                "turn can have; leave num_api_spec_tokens out."
            )
        if found:
            refuse_unless_alike(next(iter(found.values())), own)
        found[place] = own
    return found


def _told(gen: Gen, run: Run) -> bool:
    options = gen.options
    return wants_logprobs(gen, run.settings) or bool(options.top_logprobs_num)


async def _set(stream: Stream, gen: Gen, text: str, reply: Reply) -> None:
    stream.append_text(text)
    if gen.name is None:
        return
    meta: dict[str, Any] = await meta_of(reply, 0, stream.run.backend, False, with_text=False)
    stream.variables.set(gen.name, text, {**meta, "rewrites": stream.now.rewrites})


def _differs(turn: WholeTurn, reply: Reply) -> ProgramError:
    said = reply.outputs[0].text
    shown = said if len(said) <= MAX_SHOWN_CHARS else f"{said[:MAX_SHOWN_CHARS]}..."
    return ProgramError(
        f"{turn.gens[0]}: one call was to write the whole turn, but the model wrote {shown!r}, "
        "which the turn's texts are not in. Show it the form in an example, or make each gen the "
        "first of its own turn."
    )
