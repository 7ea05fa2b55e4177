"""Which calls did programs make, and how much of their prompts did the best cache have to compute?

    Watched(engine)                a `Backend` that keeps what it was asked and what it answered
    best_cached(asked) -> int      prompt tokens that a perfect prefix cache finds
    share_of_best(asked) -> Share

The optimum is exact for the calls as they were: of their trie every token is computed once, by the
prompt that has it first or by the answer that was it, and what a call must compute itself (the
last token of its prompt; tokens whose log-probabilities it wants) is computed by each. Memory is
without end and the order the best one. Hints are no calls of the program: what they compute counts
against the cache, what they find is nobody's gain.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from evolute.engine import Engine
from evolute.types import Delta, GenerateRequest, Output, SamplingParams, Tokenizer

PROMPT, MADE, OWN = 1, 2, 4  # a token of the trie: asked for, answered, computed by each call
Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """One call. `own` is the first token of the prompt that it has to compute in any case."""

    prompt: Ids
    own: int
    cached: int
    outputs: tuple[Ids, ...] = ()
    is_hint: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """Prompt tokens of the programs' calls: found, to be found at best, all."""

    cached: int
    best: int
    total: int

    @property
    def of_best(self) -> float:
        return self.cached / self.best if self.best else 1.0


class Watched:
    """Passes everything on."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.asked: list[Asked] = []

    @property
    def tokenizer(self) -> Tokenizer:
        return self.engine.tokenizer

    @property
    def model_name(self) -> str:
        return self.engine.model_name

    async def agenerate(self, request: GenerateRequest) -> list[Output]:
        outputs = await self.engine.agenerate(request)
        self._keep(request, outputs)
        return outputs

    async def stream(self, request: GenerateRequest) -> AsyncIterator[Delta]:
        outputs = []
        async for delta in self.engine.stream(request):
            if delta.output is not None:
                outputs.append(delta.output)
            yield delta
        self._keep(request, outputs)

    def _keep(self, request: GenerateRequest, outputs: Sequence[Output]) -> None:
        sampling = request.sampling
        first = sampling.prompt_logprobs_from if sampling.prompt_logprobs else len(request.prompt)
        self.asked.append(
            Asked(
                tuple(request.prompt),
                min(first, len(request.prompt) - 1),
                min(output.cached_tokens for output in outputs),
                tuple(output.token_ids for output in outputs),
                is_hint=_is_hint(sampling),
            )
        )


def share_of_best(asked: Sequence[Asked]) -> Share:
    calls = [one for one in asked if not one.is_hint]
    total = sum(len(one.prompt) for one in calls)
    computed = sum(len(one.prompt) - one.cached for one in asked)
    return Share(total - computed, best_cached(calls), total)


def best_cached(calls: Sequence[Asked]) -> int:
    """All prompt tokens, less those that have to be computed."""
    trie = _Node()
    for one in calls:
        node = trie
        for place, token in enumerate(one.prompt):
            node = node.child(token)
            node.marks |= OWN if place >= one.own else PROMPT
        for output in one.outputs:
            _made(node, output)
    own = sum(len(one.prompt) - one.own for one in calls)
    return sum(len(one.prompt) for one in calls) - own - _only_asked(trie)


# -- internals ---------------------------------------------------------------


class _Node:
    __slots__ = ("children", "marks")

    def __init__(self) -> None:
        self.children: dict[int, _Node] = {}
        self.marks = 0

    def child(self, token: int) -> _Node:
        found = self.children.get(token)
        if found is None:
            found = self.children[token] = _Node()
        return found


def _made(node: _Node, output: Ids) -> None:
    """The last token of an answer is drawn and not read."""
    for token in output[:-1]:
        node = node.child(token)
        node.marks |= MADE


def _only_asked(trie: _Node) -> int:
    """Tokens that some prompt has to bring."""
    count, left = 0, [trie]
    while left:
        node = left.pop()
        count += node.marks == PROMPT
        left += node.children.values()
    return count


def _is_hint(sampling: SamplingParams) -> bool:
    return sampling.max_new_tokens == 0 and not sampling.prompt_logprobs
