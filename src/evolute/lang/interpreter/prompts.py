"""How do roles become a prompt?

    Conversation                                  a prompt with what its template made so far
    await turn_begin(conversation, role, backend)
    await turn_end(conversation, backend)         both give the next conversation
    await told_of(conversation, tools, backend)   the same turns, the model told of other tools
    to_send(conversation, capabilities)           the prompt of a request

The model's own chat template writes all that stands around a turn: it is asked with and without
the turn, and what it adds is appended. So what a model made stays the tokens that it made. A
template that changes earlier turns, which one that drops old thoughts does, has the whole
conversation rendered anew; `rewrites` counts how often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from evolute.lang.backend import Capabilities, Made, Piece, Prompt, Text, TextBackend
from evolute.types import Message, NotSupported, RequestError

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Conversation:
    """Invariant: `prompt.messages` are the finished turns; the open one is `role` and the text
    behind the first `head` characters."""

    prompt: Prompt = field(default_factory=Prompt)
    role: str | None = None
    head: int = 0
    before: Prompt | None = None  # the prompt when the open turn began
    told: str = ""  # what the template makes of the finished turns
    is_mixed: bool = False  # there is text outside roles
    rewrites: int = 0
    tool_calls: tuple[dict[str, Any], ...] = ()  # of the open turn
    said: str | None = None  # of the open turn, beside its calls; None: all of its text
    tools: tuple[Mapping[str, Any], ...] = ()  # that the model is told of

    @property
    def content(self) -> str:
        """Text of the open turn."""
        return self.prompt.text[self.head :] if self.said is None else self.said

    @property
    def messages(self) -> tuple[Message, ...]:
        """All turns, the open one last."""
        return (*self.prompt.messages, *([self.open_message()] if self.role else []))

    def open_message(self) -> Message:
        message: Any = {"role": self.role, "content": self.content}
        if self.tool_calls:
            message["tool_calls"] = list(self.tool_calls)
        if self.role == "tool":
            message |= _answered(self.prompt.messages)
        found: Message = message
        return found

    def then(self, *pieces: Piece) -> Conversation:
        prompt = self.prompt
        for piece in pieces:
            prompt = prompt.then(piece)
        is_mixed = self.is_mixed or (self.role is None and any(p.text.strip() for p in pieces))
        said = None if self.said is None else self.said + "".join(p.text for p in pieces)
        return replace(self, prompt=prompt, is_mixed=is_mixed, said=said)

    def calling(self, pieces: Sequence[Piece], said: str, calls: Sequence[Any]) -> Conversation:
        """`pieces` are what the model wrote, `said` and `calls` what that means."""
        before = self.content
        return replace(self.then(*pieces), said=before + said, tool_calls=tuple(calls))


async def turn_begin(now: Conversation, role: str, backend: TextBackend) -> Conversation:
    """Raises RequestError for roles within roles, NotSupported where no template is known."""
    if now.role is not None:
        raise RequestError(f"role {role!r} begins within {now.role!r}; end that one first.")
    if role not in ROLES:
        raise RequestError(f"there is no role {role!r}; use {', '.join(ROLES)}.")
    before = now.prompt
    if not backend.capabilities.renders:
        _need_chat(backend.capabilities)
        opened = before.then(Text(f"{role.upper()}: "))
        return _opened(replace(now, prompt=opened), role, before)
    message: Message = {"role": role, "content": ""}  # type: ignore[typeddict-item]
    if role == "assistant" and before.messages:
        text = await backend.render(before.messages, tools=now.tools, add_generation_prompt=True)
    else:
        text = await backend.render((*before.messages, message), tools=now.tools, is_open=True)
    opened_now = _extended(now, before, text)
    if opened_now.rewrites > now.rewrites:  # nothing of the earlier pieces is left to stand on
        opened_now, before = replace(opened_now, told=""), replace(before, pieces=())
    return _opened(opened_now, role, before)


async def turn_end(now: Conversation, role: str, backend: TextBackend) -> Conversation:
    """The turn becomes a message; what the template puts behind it is appended."""
    if now.role != role or now.before is None:
        raise RequestError(f"role {role!r} ends, but {now.role or 'none'} has begun.")
    messages = now.messages
    if not backend.capabilities.renders:
        return _closed(replace(now, prompt=now.prompt.then(Text("\n"))), messages, "")
    whole = await backend.render(messages, tools=now.tools)
    if now.tool_calls:  # as it was written, if that is how the template writes it
        if not whole.startswith(now.prompt.text):
            return _closed(_rewritten(now, whole), messages, whole)
        return _closed(now.then(Text(whole[len(now.prompt.text) :])), messages, whole)
    if not _has_made(now.prompt, now.before):  # as the template writes it, to the last blank
        return _closed(_extended(now, now.before, whole), messages, whole)
    opened = await backend.render(messages, tools=now.tools, is_open=True)
    known = opened if whole.startswith(opened) else opened.rstrip()
    if not (whole.startswith(known) and whole.startswith(now.told)):
        return _closed(_rewritten(now, whole), messages, whole)
    return _closed(now.then(Text(whole[len(known) :])), messages, whole)


async def told_of(
    now: Conversation, tools: Sequence[Mapping[str, Any]], backend: TextBackend
) -> Conversation:
    """The template tells of tools where the conversation begins, so other tools mean that all of
    it is written anew. Raises NotSupported outside an assistant's turn."""
    if tuple(tools) == now.tools or not backend.capabilities.renders:
        return now
    if now.role != "assistant":
        raise NotSupported("tools need turns: put gen(tools=...) into assistant(...).")
    if now.content:
        text = await backend.render(now.messages, tools=tools, is_open=True)
    else:
        text = await backend.render(now.prompt.messages, tools=tools, add_generation_prompt=True)
    has_made = any(isinstance(piece, Made) for piece in now.prompt.pieces)
    prompt = replace(now.prompt, pieces=()).then(Text(text))
    return replace(
        now,
        prompt=prompt,
        head=len(text) - len(now.content),
        before=replace(now.prompt, pieces=()),
        told="",
        tools=tuple(tools),
        rewrites=now.rewrites + has_made,
    )


def to_send(now: Conversation, capabilities: Capabilities) -> Prompt:
    """Raises NotSupported for what an endpoint that only chats cannot be asked."""
    is_open = now.role is not None
    if capabilities.completes:
        return replace(now.prompt, messages=now.messages, is_open=is_open)
    if now.is_mixed or now.role != "assistant":
        raise NotSupported(
            "this endpoint only answers messages: put all text into system(...) and user(...), and "
            "gen within assistant(...)."
        )
    if not now.content:
        return replace(now.prompt, is_open=False)
    if not capabilities.continues_turn:
        raise NotSupported(
            "this endpoint cannot go on within an assistant's turn that has begun; let gen be "
            "the first in its turn, or give the function num_api_spec_tokens, with which one call "
            "makes a whole turn."
        )
    return replace(now.prompt, messages=now.messages, is_open=True)


# -- internals ---------------------------------------------------------------


def _need_chat(capabilities: Capabilities) -> None:
    if not capabilities.chats:
        raise NotSupported(
            "this endpoint only continues text and tells no chat template, so it has no roles; "
            "append text, or use its chat endpoint (is_chat_model=True)."
        )


def _opened(now: Conversation, role: str, before: Prompt) -> Conversation:
    head = len(now.prompt.text)
    return replace(now, role=role, head=head, before=before, tool_calls=(), said=None)


def _closed(now: Conversation, messages: tuple[Message, ...], told: str) -> Conversation:
    prompt = replace(now.prompt, messages=messages, is_open=False)
    return replace(now, prompt=prompt, role=None, before=None, told=told, tool_calls=(), said=None)


def _extended(now: Conversation, base: Prompt, whole: str) -> Conversation:
    """`base` and what `whole` has beyond the turns that are finished."""
    if whole.startswith(now.told):
        return replace(now, prompt=base.then(Text(whole[len(now.told) :])))
    return _rewritten(now, whole)


def _rewritten(now: Conversation, whole: str) -> Conversation:
    if now.is_mixed:
        raise NotSupported(
            "this model's chat template changes earlier turns, so text outside roles has no place; "
            "put all text into roles."
        )
    prompt = replace(now.prompt, pieces=()).then(Text(whole))
    return replace(now, prompt=prompt, rewrites=now.rewrites + 1)


def _answered(messages: Sequence[Message]) -> dict[str, str]:
    """Results answer the calls of the turn before them, one after the other."""
    for results, message in enumerate(reversed(messages)):
        if message["role"] != "tool":
            calls: Any = message.get("tool_calls") or ()
            return {"tool_call_id": calls[results]["id"]} if results < len(calls) else {}
    return {}


def _has_made(prompt: Prompt, before: Prompt) -> bool:
    begins = max(0, len(before.pieces) - 1)
    earlier = sum(isinstance(piece, Made) for piece in before.pieces[begins:])
    return sum(isinstance(piece, Made) for piece in prompt.pieces[begins:]) > earlier
