"""What may a request of the training API hold? Strict: an unknown field or another type is a 400.

Large parts (datums, prompts, tensors) are objects here and are read by `datums` and `tensors`.
Fields that ask for what this server does not do are accepted at the values that ask for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from evolute.server.bodies import Strict, StrictBody

NAME = Field(default=None, max_length=256)


class ConfigBody(StrictBody):
    sdk_version: str = ""


class SessionBody(StrictBody):
    tags: list[str] = Field(default=[], max_length=64)
    user_metadata: dict[str, Any] | None = None
    sdk_version: str = Field(default="", max_length=256)
    project_id: str | None = NAME
    display_name: str | None = Field(default=None, max_length=1024)
    type: Literal["create_session"] = "create_session"


class HeartbeatBody(StrictBody):
    session_id: str
    type: Literal["session_heartbeat"] = "session_heartbeat"


class Lora(Strict):
    rank: int
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    train_unembed: bool = True
    train_mlp: bool = True
    train_attn: bool = True


class Optimizer(Strict):
    type: Literal["adamw"] = "adamw"


class CreateModelBody(StrictBody):
    session_id: str
    model_seq_id: int = Field(ge=0, lt=10**12)
    base_model: str
    user_metadata: dict[str, Any] | None = None
    lora_config: Lora | None = None
    optimizer_config: Optimizer = Optimizer()
    type: Literal["create_model"] = "create_model"


class ModelBody(StrictBody):
    """get_info, unload_model, pause_model, resume_model."""

    model_id: str
    type: str = ""


class Passed(StrictBody):
    data: list[dict[str, Any]]
    loss_fn: str
    loss_fn_config: dict[str, float | str] | None = None


class ForwardBackwardBody(StrictBody):
    model_id: str
    forward_backward_input: Passed
    seq_id: int | None = Field(default=None, ge=0, lt=2**53)
    type: str = ""


class ForwardBody(StrictBody):
    model_id: str
    forward_input: Passed
    seq_id: int | None = Field(default=None, ge=0, lt=2**53)
    type: str = ""


class Adam(Strict):
    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0
    type: Literal["adamw", "adam"] = "adamw"


class StepBody(StrictBody):
    model_id: str
    adam_params: Adam
    seq_id: int | None = Field(default=None, ge=0, lt=2**53)
    type: Literal["optim_step"] = "optim_step"
    unions: ClassVar[Mapping[str, str]] = {}


class SaveBody(StrictBody):
    model_id: str
    path: str | None = NAME
    seq_id: int | None = Field(default=None, ge=0, lt=2**53)
    ttl_seconds: int | None = Field(default=None, ge=1, lt=2**40)
    overwrite: bool = False
    user_metadata: dict[str, str] | None = None
    type: Literal["save_weights"] = "save_weights"


class SaveSamplerBody(StrictBody):
    model_id: str
    path: str | None = NAME
    sampling_session_seq_id: int | None = Field(default=None, ge=0, lt=10**12)
    kind: Literal["snapshot", "inflight"] = "snapshot"
    seq_id: int | None = Field(default=None, ge=0, lt=2**53)
    ttl_seconds: int | None = Field(default=None, ge=1, lt=2**40)
    user_metadata: dict[str, str] | None = None
    type: Literal["save_weights_for_sampler"] = "save_weights_for_sampler"


class LoadBody(StrictBody):
    """Onto a model (model_id, seq_id), or as a new one (session_id, model_seq_id)."""

    model_id: str | None = None
    seq_id: int | None = Field(default=None, ge=0, lt=2**53)
    session_id: str | None = None
    model_seq_id: int | None = Field(default=None, ge=0, lt=10**12)
    base_model: str | None = None
    user_metadata: dict[str, Any] | None = None
    path: str
    optimizer: bool = False
    optimizer_config: Optimizer | None = None
    type: Literal["load_weights"] = "load_weights"
    trivial: ClassVar[Mapping[str, tuple[Any, ...]]] = {"weights_access_token": ()}


class SamplerBody(StrictBody):
    session_id: str
    sampling_session_seq_id: int = Field(ge=0, lt=10**12)
    base_model: str | None = None
    model_path: str | None = None
    type: Literal["create_sampling_session"] = "create_sampling_session"


class Sampling(Strict):
    max_tokens: int | None = Field(default=None, ge=0, lt=2**31)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | list[int] | None = None
    temperature: float = 1.0
    top_k: int = Field(default=-1, ge=-1)
    top_p: float = 1.0


class SampleBody(StrictBody):
    prompt: dict[str, Any]
    sampling_params: Sampling
    num_samples: int = 1
    base_model: str | None = None
    model_path: str | None = None
    sampling_session_id: str | None = None
    seq_id: int | None = Field(default=None, ge=0, lt=2**63)
    prompt_logprobs: bool | None = None
    topk_prompt_logprobs: int = 0
    topk_sample_logprobs: int = 0
    target_prompt_logprobs: dict[str, Any] | None = None
    prompt_logprobs_last_n: int | None = None
    type: Literal["sample"] = "sample"
    trivial: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "prompt_alt_tokens_k": (0,),
        "record_stability_info": (False,),
    }


class RetrieveBody(StrictBody):
    request_id: str
    allow_metadata_only: bool = False  # results are always sent whole
    model_id: str | None = None


class CancelBody(StrictBody):
    request_id: str


class WeightsInfoBody(StrictBody):
    tinker_path: str


class TelemetryBody(StrictBody):
    events: list[Any]
    platform: str = ""
    sdk_version: str = ""
    session_id: str = ""
    process_uuid: str = ""


class FinishBody(StrictBody):
    reason: dict[str, Any]
    detail: str | None = None


class TtlBody(StrictBody):
    ttl_seconds: int | None = Field(default=None, ge=1, lt=2**40)
