"""The seam below programs: text and messages in, text out, whatever makes them.

    TextBackend                       generate, stream, score, encode, render, prepare
    Prompt                            what is to be continued: pieces of text and tokens, messages
    TextRequest, Reply                one call and its answer
    Capabilities                      what a backend can do; the rest is refused by name

`evolute.types.Backend` is the seam of tokens: engine, fleet, HTTP client, recorder. A text backend
stands on one of those, or on an endpoint that knows only texts or only messages. What a request
uses and the capabilities lack raises NotSupported before anything is sent.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

from evolute.lang.account import Spent
from evolute.types import Delta, Message, Output, SamplingParams

ToolChoice = Literal["none", "auto", "required"] | str  # any other text names one tool
_ids = itertools.count()


@dataclass(frozen=True, slots=True)
class Text:
    """Characters that are tokenised together with their neighbours."""

    text: str


@dataclass(frozen=True, slots=True)
class Made:
    """What a model made: it stays these tokens, so that the prefix cache knows them again.

    Without `token_ids` (an endpoint that tells none) it counts as text.
    """

    text: str
    token_ids: tuple[int, ...] = ()


Piece = Text | Made


@dataclass(frozen=True, slots=True)
class Prompt:
    """One conversation in two forms: `pieces` for who continues text, `messages` for who chats.

    Invariants: no piece is empty; no two texts are neighbours (build with `then`). `messages` is
    empty when the program used no roles; the last one is unfinished when `is_open`. The pieces
    hold the chat template's own characters where the backend `renders`.
    """

    pieces: tuple[Piece, ...] = ()
    messages: tuple[Message, ...] = ()
    is_open: bool = False  # an assistant's turn that goes on

    @classmethod
    def of(cls, text: str) -> Prompt:
        """A prompt of plain text."""
        return cls().then(Text(text))

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    def then(self, piece: Piece) -> Prompt:
        """With one piece more; texts join, an empty piece changes nothing. Messages stay."""
        if not piece.text and not (isinstance(piece, Made) and piece.token_ids):
            return self
        if isinstance(piece, Made) and not piece.token_ids:
            piece = Text(piece.text)
        last = self.pieces[-1] if self.pieces else None
        if isinstance(piece, Text) and isinstance(last, Text):
            return replace(self, pieces=(*self.pieces[:-1], Text(last.text + piece.text)))
        return replace(self, pieces=(*self.pieces, piece))


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model wrote. `arguments` is JSON text, whole unless the answer was cut."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class TextRequest:
    """One prompt to be continued `sampling.n` times."""

    prompt: Prompt
    sampling: SamplingParams = field(default_factory=SamplingParams)
    tools: tuple[Mapping[str, Any], ...] = ()  # {"type": "function", "function": {...}}
    tool_choice: ToolChoice = "auto"
    wants_logprobs: bool = False  # an endpoint that cannot tell them refuses
    adapter: str | None = None
    tenant: str = "default"
    priority: int = 0
    cache_salt: str = ""
    id: str = field(default_factory=lambda: f"text-{next(_ids)}")


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one request. Invariant: len(outputs) == n, ordered by `Output.index`.

    Where the endpoint tells no tokens, an output's `token_ids` and `logprobs` are empty and its
    tokens are counted in `spent` alone. `tool_calls` has one entry for each output.
    """

    outputs: tuple[Output, ...]
    spent: Spent
    tool_calls: tuple[tuple[ToolCall, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one backend can do."""

    completes: bool = False  # continues a text
    chats: bool = False  # answers messages
    continues_turn: bool = False  # goes on within an assistant's turn
    renders: bool = False  # tells what its chat template makes of messages
    tokens: bool = False  # encode and score work; outputs have token ids
    logprobs: bool = False
    tools: bool = False
    hints: bool = False  # prepare saves later calls their prefix
    echoes: bool = False  # tells log-probabilities of a text that it is given: `lang/echoes.py`
    sampling: frozenset[str] | None = None  # fields of SamplingParams it honours; None: all
    context: int | None = None  # tokens; None: it does not tell


@runtime_checkable
class TextBackend(Protocol):
    """Anything that turns texts and messages into texts.

    Raises RequestError (NotSupported, PromptTooLong, BadGrammar) for what cannot be served,
    OutOfCapacity and BackendError when the service failed after its own retries. Cancelling a
    coroutine, or leaving the loop over `stream`, aborts the request. Usable from several loops.
    """

    @property
    def model_name(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    async def generate(self, request: TextRequest) -> Reply: ...

    def stream(self, request: TextRequest) -> AsyncIterator[Delta | Reply]:
        """Deltas as they come, each with text or tokens; the last item is the Reply."""
        ...

    async def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """The token ids that `generate` would send. Needs `tokens`."""
        ...

    async def decode(self, token_ids: Sequence[int]) -> str:
        """Text of ids, special tokens shown. Needs `tokens`."""
        ...

    async def score(
        self, prefix: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> tuple[list[tuple[float, ...]], Spent]:
        """log p at temperature 1 of each token of each continuation after `prefix`.

        The prefix (at least one token) is computed once for all. An empty continuation gives ().
        Needs `tokens`.
        """
        ...

    async def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        is_open: bool = False,
        add_generation_prompt: bool = False,
    ) -> str:
        """What the model's own chat template makes of messages; with `is_open` up to the last
        character of the last one. Needs `renders`."""
        ...

    async def prepare(self, prompt: Prompt) -> Spent:
        """Compute a prefix that several calls are about to share. Does nothing without `hints`."""
        ...

    async def flush(self) -> None:
        """Empty the prefix cache; NotSupported where there is none to empty."""
        ...

    async def describe(self) -> Mapping[str, Any]:
        """What the backend tells of itself: SGLang's `get_server_info`."""
        ...

    async def aclose(self) -> None: ...
