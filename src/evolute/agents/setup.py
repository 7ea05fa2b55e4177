"""What do the agents of one trajectory share, and how does one end?

Setup(backend, config, record, trajectory, ...)
sampling_of(setup, form), seed_of(setup, agent, turn)      of an agent's turns; of one
only(outputs)                                              the one completion, checked
Stop, AgentEnd
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from evolute.agents.parsing import END_FUNCTION, Form
from evolute.agents.record import Record
from evolute.agents.settings import AgentConfig
from evolute.lang.tools import hides_tags
from evolute.lang.tools.parsers import CLOSE, ToolFormat
from evolute.types import Backend, BackendError, FinishReason, Output, SamplingParams

END_TAGS = {Form.HERMES: (CLOSE,), Form.FUNCTION: (END_FUNCTION,), Form.JSON: ()}


class Stop(StrEnum):
    """Why an agent ended."""

    FINISH = "finish"
    MAX_TURNS = "max_turns"
    CONTEXT = "context"
    STUCK = "stuck"


@dataclass(frozen=True, slots=True)
class AgentEnd:
    """`answer` is what the finishing tool took; None unless `stop` is FINISH."""

    stop: Stop
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Setup:
    """What all agents of one trajectory share."""

    backend: Backend
    config: AgentConfig
    record: Record
    trajectory: str  # stable and unique
    seed: int = 0
    adapter: str | None = None
    cache_salt: str = ""


def sampling_of(setup: Setup, form: Form) -> SamplingParams:
    """Without its seed and its size, which each turn has of its own."""
    tags = END_TAGS[form] if setup.config.stop_at_call else ()
    is_hidden = form is not Form.FUNCTION and hides_tags(
        setup.backend.tokenizer, ToolFormat(form.value)
    )
    return replace(
        setup.config.sampling(),
        stop=tags,
        include_stop=bool(tags),
        skip_special_tokens=not is_hidden,
    )


def seed_of(setup: Setup, agent: str, turn: int) -> int:
    key = f"{setup.seed}/{setup.trajectory}/{agent}/{turn}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big")


def only(outputs: Sequence[Output]) -> Output:
    if len(outputs) != 1:
        raise BackendError(f"one completion was asked for, {len(outputs)} came back.")
    (output,) = outputs
    if output.finish_reason not in (FinishReason.STOP, FinishReason.LENGTH):
        raise BackendError(f"generation ended with {output.finish_reason}: {output.error}")
    return output
