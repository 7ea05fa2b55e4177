"""Which training samples do an agent's model calls make?

Transition(prompt_ids, action_ids, logprobs, ...)    one model call, as it was sampled
transition_of(request, output, agent) -> Transition
samples_of(transitions, merge=True) -> samples       one chain for each agent id

A chain is walked in the order of its calls. While the next prompt begins with all that was there,
what is new in it is appended unmasked and the action masked; a prompt that does not (history that
was cleared, summarised, or lost its thoughts) begins another sample. The agent declares nothing.
(Transitions of SkyRL-Agent, arXiv 2511.16108; one chain an agent is ours.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from evolute.types import BackendError, GenerateRequest, Output, TrainingSample, VersionSegment

MAIN = "main"


@dataclass(frozen=True, slots=True)
class Transition:
    """The exact ids that went in, the ids that came out, and their log-probabilities.

    Raises BackendError unless each action token has a finite log-probability: one that is missing
    is an error, never 0.0, which would say that the token was certain. `versions` is empty where
    the backend tells none.
    """

    prompt_ids: tuple[int, ...]
    action_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    versions: tuple[VersionSegment, ...] = ()
    agent: str = MAIN

    def __post_init__(self) -> None:
        size, told = len(self.action_ids), len(self.logprobs or ())
        if told != size:
            raise BackendError(
                f"{size} tokens came with {told} log-probabilities; training needs one for each. "
                "Let the backend report them."
            )
        for place, logprob in enumerate(self.logprobs or ()):
            if logprob is None or not math.isfinite(logprob):
                raise BackendError(
                    f"the log-probability of token {place} of {size} is {logprob}; training needs "
                    "a finite number for each. Let the backend report them."
                )
        counted = sum(segment.num_tokens for segment in self.versions)
        if self.versions and counted != size:
            raise BackendError(
                f"{size} tokens came with weight versions of {counted}; they must cover each token."
            )


def transition_of(request: GenerateRequest, output: Output, agent: str = MAIN) -> Transition:
    """Raises BackendError for an output that cannot be trained on."""
    return Transition(
        tuple(request.prompt),
        tuple(output.token_ids),
        tuple(output.logprobs),
        tuple(output.weight_versions),
        agent,
    )


def samples_of(
    transitions: Iterable[Transition], *, merge: bool = True
) -> tuple[TrainingSample, ...]:
    """Samples of all agents, in the order of the agents' first calls, then of their own.

    Every action token is masked True in exactly one sample. With `merge` off each call is a sample
    of its own: the same gradient from more tokens.
    """
    chains: dict[str, list[_Running]] = {}
    for one in transitions:
        chain = chains.setdefault(one.agent, [])
        if not (merge and chain and chain[-1].continues(one)):
            chain.append(_Running(one.prompt_ids))
        chain[-1].append(one)
    return tuple(running.sample() for chain in chains.values() for running in chain)


# -- internals ---------------------------------------------------------------


@dataclass(slots=True)
class _Running:
    """A sample that may still grow."""

    prompt_ids: tuple[int, ...]
    ids: list[int] = field(default_factory=list)  # after the prompt
    mask: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[VersionSegment] = field(default_factory=list)
    is_version_known: bool = True

    def continues(self, one: Transition) -> bool:
        """Does the call's prompt begin with everything here?"""
        first, whole = len(self.prompt_ids), len(self.prompt_ids) + len(self.ids)
        given = one.prompt_ids
        return (
            len(given) >= whole
            and given[:first] == self.prompt_ids
            and list(given[first:whole]) == self.ids
        )

    def append(self, one: Transition) -> None:
        new = one.prompt_ids[len(self.prompt_ids) + len(self.ids) :]
        self._extend(new, [False] * len(new), [0.0] * len(new))
        self._extend(one.action_ids, [True] * len(one.action_ids), one.logprobs)
        self.versions += one.versions
        self.is_version_known &= bool(one.versions or not one.action_ids)

    def _extend(self, ids: Sequence[int], mask: Sequence[bool], logprobs: Sequence[float]) -> None:
        self.ids += ids
        self.mask += mask
        self.logprobs += logprobs

    def sample(self) -> TrainingSample:
        return TrainingSample(
            self.prompt_ids,
            tuple(self.ids),
            tuple(self.mask),
            tuple(self.logprobs),
            tuple(self.versions) if self.is_version_known else (),
        )
