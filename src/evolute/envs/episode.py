"""One episode: a backend acts in a world, and every token is recorded as it was sampled.

Token in, token out: ids are only ever appended. Sampled ids are kept with their mask and
log-probabilities; what the world says is tokenised alone and appended with mask False. Text is
never tokenised again. A failure of the infrastructure is recorded on the rollout, not raised.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from evolute.types import (
    Backend,
    Env,
    FinishReason,
    GenerateRequest,
    Message,
    Outcome,
    Output,
    Problem,
    RequestError,
    Rollout,
    SamplingParams,
    StepResult,
    Task,
    Tokenizer,
    TrainingSample,
    VersionSegment,
)
from evolute.types.errors import BackendError

ENV_TIMEOUT_S = 60.0


@dataclass(slots=True)
class _Record:
    """The conversation so far, as tokens."""

    prompt_ids: list[int]
    ids: list[int] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[VersionSegment] = field(default_factory=list)
    text: str = ""
    reward: float = 0.0
    turns: int = 0

    def sampled(self, output: Output) -> None:
        self.ids += output.token_ids
        self.mask += [True] * len(output.token_ids)
        self.logprobs += output.logprobs
        self.versions += output.weight_versions
        self.text += output.text
        self.turns += 1

    def observed(self, ids: Sequence[int], text: str) -> None:
        self.ids += ids
        self.mask += [False] * len(ids)
        self.logprobs += [0.0] * len(ids)
        self.text += text

    def sample(self) -> TrainingSample:
        return TrainingSample(
            tuple(self.prompt_ids),
            tuple(self.ids),
            tuple(self.mask),
            tuple(self.logprobs),
            tuple(self.versions),
        )


async def run_episode(
    task: Task,
    problem: Problem,
    backend: Backend,
    sampling: SamplingParams,
    *,
    adapter: str | None = None,
    group: int = 0,
    index: int = 0,
    cache_salt: str = "",
    seed: int | None = None,
) -> Rollout:
    """Play one episode. RequestError (settings that cannot work) and cancellation propagate;
    any other failure gives a rollout with outcome FAILED."""
    make = partial(Rollout, problem.id, group, index)
    env: Env | None = None
    record = _Record([])
    try:
        env = task.make(problem)
        ask = partial(
            _ask, backend, sampling, adapter=adapter, cache_salt=cache_salt, seed=seed, index=index
        )
        outcome = await _play(env, problem, backend.tokenizer, ask, record)
    except (asyncio.CancelledError, RequestError):
        raise
    except Exception as error:
        samples = (record.sample(),) if record.ids else ()
        failure = type(error).__name__
        return make(0.0, Outcome.FAILED, samples, record.text, failure, {}, {"error": str(error)})
    finally:
        if env is not None:
            await _in_thread(env.close)
    metrics = {"turns": float(record.turns), "accuracy": float(record.reward >= 1.0)}
    return make(record.reward, outcome, (record.sample(),), record.text, None, metrics)


# -- internals ---------------------------------------------------------------


async def _play(
    env: Env, problem: Problem, tokenizer: Tokenizer, ask: Any, record: _Record
) -> Outcome:
    messages, _ = await _in_thread(env.init, problem.messages)
    record.prompt_ids = list(tokenizer.chat(messages))
    while True:
        output = await ask(problem, record)
        record.sampled(output)
        step: StepResult = await _in_thread(env.step, output.text)
        record.reward += step.reward
        if step.done:
            cut = output.finish_reason is FinishReason.LENGTH
            return Outcome.TRUNCATED if cut else Outcome.DONE
        new = observation_ids(tokenizer, step.observations, record.ids)
        record.observed(
            new, "".join(f"\n[{m['role']}] {m['content']}\n" for m in step.observations)
        )


async def _ask(
    backend: Backend,
    sampling: SamplingParams,
    problem: Problem,
    record: _Record,
    *,
    adapter: str | None,
    cache_salt: str,
    seed: int | None,
    index: int,
) -> Output:
    if seed is not None:
        key = f"{seed}/{problem.id}/{index}/{record.turns}"
        drawn = int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big")
        sampling = replace(sampling, seed=drawn)
    prompt = (*record.prompt_ids, *record.ids)
    request = GenerateRequest(prompt, sampling, adapter, cache_salt=cache_salt)
    (output,) = await backend.agenerate(request)
    if output.finish_reason in (FinishReason.ERROR, FinishReason.ABORT):
        raise BackendError(f"generation ended with {output.finish_reason}: {output.error}")
    return output


def observation_ids(
    tokenizer: Tokenizer, observations: Sequence[Message], before: Sequence[int]
) -> list[int]:
    """Ids of what the world says, up to the next assistant turn.

    A fixed short conversation is tokenised with and without the observation; the difference
    after its last end-of-turn is what the template writes for it, at a cost that does not grow
    with the history. The end-of-turn itself is added when the model was cut before it.
    """
    base: list[Message] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    head = tokenizer.chat(base, add_generation_prompt=False)
    full = tokenizer.chat([*base, *observations], add_generation_prompt=True)
    end = max(i for i, token in enumerate(head) if token in tokenizer.stop_token_ids)
    has_end = bool(before) and before[-1] in tokenizer.stop_token_ids
    return full[end + 1 if has_end else end :]


async def _in_thread(call: Any, *args: Any) -> Any:
    return await asyncio.wait_for(asyncio.to_thread(call, *args), ENV_TIMEOUT_S)
