"""What does the model see next? One agent's conversation, as messages and as token ids.

    history.prompt() -> ids          what the next call is given
    history.sampled(ids, text)       the model's turn, as it was sampled
    history.observed(message)        what it is told
    history.replace(messages)        another past: the next prompt is rendered anew

Ids are only ever appended (envs/observation.py) until the past is rewritten: then, and only then,
is text tokenised again, and the calls after it are another training sample (transitions.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evolute.agents.guidance import instructed
from evolute.agents.parsing import END_THINK, FUNCTION, THINK, Form, Tools, without_thoughts
from evolute.envs.observation import observation_ids
from evolute.lang.tools import format_of, in_text, toolset_of
from evolute.types import EpisodeError, Message, RequestError, Tokenizer


class History:
    """Built with the agent's instruction. `form` says how calls are written."""

    def __init__(
        self, tokenizer: Tokenizer, tools: Tools, form: Form, messages: Sequence[Message]
    ) -> None:
        self._tokenizer, self._tools, self._form = tokenizer, tools, form
        reads = "tools" in getattr(tokenizer, "template_variables", ())
        knows_form = form is not Form.FUNCTION or _shows_functions(tokenizer)
        self._has_native_tools = reads and knows_form
        self._has_tool_role = self._has_native_tools and _takes_tool_messages(tokenizer)
        self.messages: list[Message] = list(messages)
        self._ids: list[int] = []
        self._is_stale = True
        self.num_rewrites = 0

    def prompt(self) -> tuple[int, ...]:
        if self._is_stale:
            self._ids = list(self._rendered())
            self._is_stale = False
        return tuple(self._ids)

    def sampled(self, ids: Sequence[int], text: str) -> None:
        """Called with the prompt that was given still at hand."""
        assert not self._is_stale, "the model has answered a prompt that was never made"
        self._ids += ids
        self.messages.append(Message(role="assistant", content=text))

    def observed(self, text: str, *, of_tool: str = "") -> None:
        """A user's turn, or with `of_tool` the result of that tool's call."""
        message = self._result(text, of_tool) if of_tool else Message(role="user", content=text)
        self.messages.append(message)
        if not self._is_stale:
            self._ids += observation_ids(self._tokenizer, [message], self._ids)

    def remind(self, text: str) -> None:
        """Add a line to the last message. Call it only before that message was tokenised."""
        assert self._is_stale, "a message that was tokenised stays as it is"
        last = self.messages[-1]
        self.messages[-1] = Message(**{**last, "content": f"{last['content']}\n\n{text}"})

    def replace(self, messages: Sequence[Message]) -> None:
        """Raises EpisodeError for what no conversation can be."""
        self.messages = _checked(messages)
        self._is_stale = True
        self.num_rewrites += 1

    def drop_thoughts(self) -> None:
        """Without what the model thought in its earlier turns."""
        kept = [_without_thoughts(message) for message in self.messages]
        if kept != self.messages:
            self.replace(kept)

    # -- internals ---------------------------------------------------------------

    def _rendered(self) -> list[int]:
        tools = list(self._tools.values())
        if self._has_native_tools:
            chat: Any = self._tokenizer.chat  # such a tokenizer takes tools
            ids: list[int] = chat(self.messages, tools=tools)
            return ids
        if self._form is Form.FUNCTION:
            return self._tokenizer.chat(instructed(self.messages, self._tools))
        return self._tokenizer.chat(in_text(self.messages, toolset_of(tools)))

    def _result(self, text: str, tool: str) -> Message:
        if self._has_tool_role:
            return Message(role="tool", content=text, name=tool)
        if self._form is Form.FUNCTION:
            return Message(role="user", content=f"[result of {tool}]\n{text}")
        return Message(role="user", content=f"<tool_response>\n{text}\n</tool_response>")


def form_of(tokenizer: Tokenizer, form: str) -> Form:
    """The form that is asked for; `auto` is that of the model's chat template."""
    if form != "auto":
        return Form(form)
    return Form.FUNCTION if _shows_functions(tokenizer) else Form(format_of(tokenizer).value)


# -- internals ---------------------------------------------------------------


def _shows_functions(tokenizer: Tokenizer) -> bool:
    """The chat template itself writes calls as <function=NAME>."""
    return FUNCTION in getattr(getattr(tokenizer, "template", None), "source", "")


def _takes_tool_messages(tokenizer: Tokenizer) -> bool:
    """Some templates want calls in a form of their own before results; those get a user's turn."""
    talk: list[Message] = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "tool", "content": "c", "name": "d"},
    ]
    try:
        tokenizer.chat(talk)
    except (RequestError, ValueError, KeyError, TypeError):
        return False
    return True


def _checked(messages: Sequence[Message]) -> list[Message]:
    found = list(messages)
    if not found or not all(
        isinstance(message, Mapping)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
        for message in found
    ):
        raise EpisodeError(
            f"the history was replaced by {found!r:.200}; it must be messages, each with the texts "
            "role and content."
        )
    return found


def _without_thoughts(message: Message) -> Message:
    if message["role"] != "assistant":
        return message
    if THINK not in message["content"] and END_THINK not in message["content"]:
        return message
    said = without_thoughts(message["content"]).strip()
    return Message(**{**message, "content": said})
