"""What the scheduler knows about one request in flight."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from evolute.engine.memory import NO_ADAPTER, AdapterId

Namespace = tuple[str | None, int, str]  # adapter, weight version, salt: who may share pages


@dataclass(slots=True, eq=False)
class Sequence:
    """One output being made. `num_computed` tokens have keys and values in `pages`.

    Invariants while running: len(pages) * page_size >= num_computed; the last token of
    `tokens` is never computed before the next one is wanted, so num_uncomputed >= 1.
    """

    id: int
    prompt_len: int
    tokens: list[int]  # prompt, then output
    max_new_tokens: int
    namespace: Namespace = (None, 0, "")
    is_private: bool = False  # neither looks into the prefix cache nor fills it
    reads_cache: bool = True  # False: every prompt token's logits are wanted
    most_cached: int = sys.maxsize  # tokens it may take from the cache; later logits are wanted
    tenant: str = "default"
    priority: int = 0  # of the policy `priority`; higher goes first
    adapter: AdapterId = NO_ADAPTER
    is_constrained: bool = False  # a grammar decides its tokens: only what it forces is guessed
    pages: list[int] = field(default_factory=list)
    num_shared_pages: int = 0  # the first ones belong to the prefix cache
    num_computed: int = 0
    num_cached: int | None = None  # prompt tokens found in the cache at first admission
    passed_over: int = 0  # how often a later arrival was admitted before it
    num_preemptions: int = 0
    is_displaced: bool = False  # it gave up its place for another tenant, and waits
    has_deadline: bool = False  # its first token is wanted by a moment that the loop knows
    proposed: list[int] = field(default_factory=list)  # guessed to follow `tokens`
    num_restoring: int = 0  # pages that the second tier gives back in the next steps
    digests: list[bytes] = field(default_factory=list)  # names of its whole pages, as far as asked

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def num_uncomputed(self) -> int:
        return len(self.tokens) - self.num_computed

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - self.prompt_len

    def pages_for(self, num_new_tokens: int, page_size: int) -> int:
        """Pages to add before `num_new_tokens` more tokens can be computed."""
        needed = -(-(self.num_computed + num_new_tokens) // page_size)
        return max(needed - len(self.pages), 0)
