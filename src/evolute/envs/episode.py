"""One episode: a backend acts in a world, and every token is recorded as it was sampled.

Token in, token out: ids are only ever appended (`transcript.py`). A failure of the infrastructure
is recorded on the rollout, not raised.

    init -> ids -> [generate -> step -> observation ids] ... -> DONE | TRUNCATED | FAILED
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from evolute.envs.blocking import run_blocking
from evolute.envs.metrics import count
from evolute.envs.observation import observation_ids
from evolute.envs.step import read_messages, read_metrics, read_step
from evolute.envs.transcript import Transcript
from evolute.types import (
    Backend,
    BackendError,
    Env,
    FinishReason,
    GenerateRequest,
    Outcome,
    Output,
    Problem,
    PromptTooLong,
    RequestError,
    Rollout,
    SamplingParams,
    StepResult,
    Task,
    Tokenizer,
)

logger = logging.getLogger(__name__)
ENV_TIMEOUT_S = 60.0
Ask = Callable[[Problem, Transcript], Awaitable[Output]]


@dataclass(slots=True)
class _Earned:
    """What the world has given so far."""

    reward: float = 0.0
    accuracy: float | None = None  # as the world says, apart from shaping; None: it does not

    def add(self, step: StepResult) -> None:
        self.reward += step.reward
        self.accuracy = step.metadata.get("accuracy", self.accuracy)

    @property
    def is_right(self) -> bool:
        return (self.reward if self.accuracy is None else self.accuracy) >= 1.0


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
    """Play one episode. RequestError of the backend (settings that cannot work) and cancellation
    propagate; any other failure gives a rollout with outcome FAILED. With a `seed`, each turn's
    seed follows from it, the problem, the index and the turn. `sampling.n` must be 1."""
    if sampling.n != 1:
        raise RequestError(f"sampling.n is {sampling.n}; an episode has one line of turns: use 1.")
    make = partial(Rollout, problem.id, group, index)
    env: Env | None = None
    record, earned = Transcript([]), _Earned()
    try:
        env = task.make(problem)
        ask = partial(
            _ask, backend, sampling, adapter=adapter, cache_salt=cache_salt, seed=seed, index=index
        )
        outcome = await _play(env, problem, backend.tokenizer, ask, record, earned)
        metrics = _metrics(env, record, earned)
    except (asyncio.CancelledError, RequestError):
        raise
    except Exception as error:
        logger.debug("episode %s/%d failed", problem.id, index, exc_info=True)
        samples = (record.sample(),) if record.ids else ()
        failure, why = type(error).__name__, {"error": str(error)}
        return count(make(0.0, Outcome.FAILED, samples, record.text, failure, {}, why))
    finally:
        if env is not None:
            await _close(env)
    return count(make(earned.reward, outcome, (record.sample(),), record.text, None, metrics))


# -- internals ---------------------------------------------------------------


async def _play(
    env: Env, problem: Problem, tokenizer: Tokenizer, ask: Ask, record: Transcript, earned: _Earned
) -> Outcome:
    messages, _ = await _in_thread(env.init, problem.messages)
    record.prompt_ids = list(tokenizer.chat(read_messages(messages)))
    while True:
        try:
            output = await ask(problem, record)
        except PromptTooLong:
            if not record.turns:  # not even the question fits: settings that cannot work
                raise
            return Outcome.TRUNCATED  # the talk has outgrown the context
        record.sampled(output)
        step = read_step(await _in_thread(env.step, output.text))
        earned.add(step)
        if step.done:  # what was sampled last stays as it is: nobody reads on
            cut = output.finish_reason is FinishReason.LENGTH or step.metadata.get("truncated")
            return Outcome.TRUNCATED if cut else Outcome.DONE
        if step.postprocessed_action is not None:
            record.replaced(step.postprocessed_action, tokenizer)
        said = "".join(f"\n[{m['role']}] {m['content']}\n" for m in step.observations)
        record.observed(observation_ids(tokenizer, step.observations, record.ids), said)


def _metrics(env: Env, record: Transcript, earned: _Earned) -> Mapping[str, float]:
    """The world's own, and ours, which win."""
    metrics = read_metrics(getattr(env, "get_metrics", dict)())
    if record.num_replaced:
        metrics["replaced_turns"] = float(record.num_replaced)
    return metrics | {"turns": float(record.turns), "accuracy": float(earned.is_right)}


async def _ask(
    backend: Backend,
    sampling: SamplingParams,
    problem: Problem,
    record: Transcript,
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
    request = GenerateRequest(
        prompt,
        sampling,
        adapter,
        tenant="rollouts",
        session=f"{problem.id}/{index}/{seed}",
        cache_salt=cache_salt,
    )
    outputs = await backend.agenerate(request)
    _check_outputs(outputs)
    return outputs[0]


def _check_outputs(outputs: Sequence[Output]) -> None:
    if len(outputs) != 1:
        raise BackendError(f"one completion was asked for, {len(outputs)} came back.")
    (output,) = outputs
    if output.finish_reason not in (FinishReason.STOP, FinishReason.LENGTH):
        raise BackendError(f"generation ended with {output.finish_reason}: {output.error}")
    if len(output.logprobs) != len(output.token_ids):
        raise BackendError(
            f"{len(output.token_ids)} tokens came with {len(output.logprobs)} log-probabilities; "
            "training needs one for each."
        )


async def _close(env: Env) -> None:
    """A world that cannot be closed is worth a warning, not a rollout."""
    try:
        await _in_thread(env.close)
    except Exception as error:
        logger.warning("closing %s failed: %r", type(env).__name__, error)


async def _in_thread(call: Any, *args: Any) -> Any:
    return await run_blocking(call, *args, timeout_s=ENV_TIMEOUT_S)
