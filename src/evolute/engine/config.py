"""What can be set about an engine, and what the settings become for one model.

EngineConfig                         what a user writes
resolve(config, model) -> Resolved   every choice made; frozen; what the engine runs with
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from evolute.engine.memory import RestoreName
from evolute.engine.scheduling import SpeculationSettings
from evolute.engine.scheduling.policies import PolicySettings
from evolute.engine.scheduling.policies.build import PolicyName, PredictorName
from evolute.engine.scheduling.policies.service import CostName, parse_weights
from evolute.models import ModelConfig
from evolute.models.partition import check_size
from evolute.types import ConfigError
from evolute.types.request import MAX_DEADLINE_S

MAX_PAGE_SIZE = 16
FOR_USERS = 4  # places in the batch that work in bulk leave free
AT_LEAST_ONE = (
    *("max_running", "token_budget", "memory_mb", "max_waiting", "quantum", "tensor_parallel"),
    *("draft_tokens", "ngram_min", "speculate_up_to", "tier_mb", "tier_step_mb"),
    "jump_tokens",
)
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
PRECISIONS = {  # of each executor
    "native": ("float32", "quantized", "int8"),
    "torch": ("float32", "bfloat16"),
    "triton": ("float32", "bfloat16", "quantized"),
}
TRITON_HEAD_WIDTH = 256  # wider ones do not fit a GPU's shared memory
ExecutorName = Literal["native", "torch", "triton"]


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Settings of one engine. `auto` and 0 are decided by `resolve`."""

    # torch: the plain reference, what auto takes with device cuda; triton: kernels for a GPU,
    # only when named, until they have run on one
    executor: Literal["auto", "native", "torch", "triton"] = "auto"
    # auto: float32; quantized: the file's own codes (native, triton); int8: a scale per output,
    # for many at once (native); bfloat16: torch, triton
    precision: Literal["auto", "float32", "bfloat16", "quantized", "int8"] = "auto"
    device: Literal["cpu", "cuda"] = "cpu"  # cuda: torch, one GPU for each rank, or triton
    cuda_graphs: Literal["auto", "on", "off"] = (
        "auto"  # decodes replayed; auto: with triton on cuda
    )
    tensor_parallel: int = 1  # processes that share the network; torch
    sampler: Literal["auto", "native", "plain"] = "auto"  # plain: numpy, row by row
    # auto: follows precision; bfloat16: torch, triton
    kv_dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    context: int = 0  # longest prompt + output; 0: the model's own
    max_running: int = 64  # requests computed at once
    token_budget: int = 512  # tokens one step may compute
    page_size: int = 16  # tokens a page of the prefix cache holds, 1 to 16
    memory_mb: int = 1024  # keys and values, and adapters in use
    prefix_cache: bool = True
    shared_attention: bool = True  # native: keys that several rows read are read once
    tier: Literal["none", "disk", "host"] = "none"  # where evicted pages of the cache are kept
    tier_mb: int = 4096  # room of the second tier; on disk it is taken at the start
    tier_dir: str = ""  # of tier disk; empty: the system's temporary directory
    tier_restore: RestoreName = "measured"  # copy back if that is cheaper than computing
    tier_queue_mb: int = 64  # memory for pages on their way to disk; 0: written within the step
    tier_step_mb: int = (
        64  # copied back in one step at most, as decodes wait; then the next goes on
    )
    adapter_paging: bool = True  # adapters share the pages; False: all stay resident beside them
    adapter_prefetch: bool = True  # copied to pages while the step before computes
    adapter_cluster: int = 0  # distinct adapters in a batch that are preferred; 0: any number
    adapter_host_mb: int = 0  # host memory of all adapters; 0: no bound
    policy: PolicyName = "dlpm"  # who is next among those that wait
    cost: CostName = "tokens"  # what vtc and dlpm charge tenants for
    predict: PredictorName = "mean"  # output length charged at admission; mean: of the last 5
    quantum: int = 1024  # of dlpm: service a tenant may get ahead of the others, in cost units
    tenant_weights: tuple[str, ...] = ()  # TENANT=SHARE; 1 unless given
    speculation: Literal["none", "ngram"] = "none"  # guess tokens from the text so far
    draft_tokens: int = 4  # guessed for a sequence and step, at most
    ngram_min: int = 2  # last tokens that must have occurred before
    ngram_max: int = 4  # last tokens that are looked for first
    speculate_up_to: int = 4  # running sequences; nothing is guessed when there are more
    jump_forward: bool = True  # tokens that a grammar forces are computed together
    jump_tokens: int = 16  # of them in one step, for a sequence, at most
    first_token_deadline_s: float = 0.0  # who cannot have it in time is ended early; 0: nobody is
    max_waiting: int = 4096  # requests queued before new ones are refused
    num_threads: int = 0  # 0: one for each core

    def __post_init__(self) -> None:
        if not 1 <= self.page_size <= MAX_PAGE_SIZE:
            raise ConfigError(
                f"engine.page_size is {self.page_size}; it must lie between 1 and {MAX_PAGE_SIZE}."
            )
        for name in AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ConfigError(f"engine.{name} is {getattr(self, name)}; it must be at least 1.")
        if self.ngram_max < self.ngram_min:
            raise ConfigError(
                f"engine.ngram_max is {self.ngram_max}; it must be at least ngram_min, which is "
                f"{self.ngram_min}."
            )
        for name in (
            "context",
            "num_threads",
            "adapter_host_mb",
            "adapter_cluster",
            "tier_queue_mb",
        ):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"engine.{name} is {getattr(self, name)}; it must not be below 0."
                )
        if not 0 <= self.first_token_deadline_s <= MAX_DEADLINE_S:
            raise ConfigError(
                f"engine.first_token_deadline_s is {self.first_token_deadline_s}; it must lie in "
                f"[0, {MAX_DEADLINE_S:g}] seconds, 0 for none."
            )
        if self.adapter_cluster and self.policy in ("vtc", "priority"):
            raise ConfigError(
                f"engine.adapter_cluster is set, but engine.policy {self.policy!r} never passes "
                "over its first request; use dlpm, lpm or fcfs."
            )
        self._check_tier()
        if self.tenant_weights and self.policy not in ("vtc", "dlpm"):
            raise ConfigError(
                f"engine.tenant_weights is set, but engine.policy {self.policy!r} knows no "
                "tenants; use dlpm or vtc."
            )
        self.fairness()

    def _check_tier(self) -> None:
        if self.tier != "none" and self.tensor_parallel > 1:
            raise ConfigError(
                f"engine.tier is {self.tier!r}, but with engine.tensor_parallel = "
                f"{self.tensor_parallel} each rank has a part of every page and nobody a whole "
                "one; leave one of them out."
            )
        if self.tier != "none" and not self.prefix_cache:
            raise ConfigError(
                f"engine.tier is {self.tier!r}, but engine.prefix_cache is false, so nothing is "
                "ever evicted from it; leave one of them out."
            )
        if self.tier_dir and self.tier != "disk":
            raise ConfigError(
                f"engine.tier_dir is set, but engine.tier is {self.tier!r}; use 'disk'."
            )
        if self.tier_restore != "measured" and self.tier == "none":
            raise ConfigError("engine.tier_restore is set, but engine.tier is 'none'.")

    @property
    def bulk_places(self) -> int:
        """As many of its own requests as a long job, of rollouts or of an evaluation, may have at
        once: a few places of `max_running` stay free, so that users who ask meanwhile need not
        queue behind it."""
        return max(1, self.max_running - FOR_USERS)

    def fairness(self) -> PolicySettings:
        """What the policy is made from. Raises ConfigError for a weight that is none."""
        try:
            weights = parse_weights(self.tenant_weights)
        except ValueError as error:
            raise ConfigError(f"engine.tenant_weights: {error}") from None
        settings = (self.policy, self.cost, self.predict, self.quantum)
        return PolicySettings(*settings, tuple(weights.items()))

    def drafting(self) -> SpeculationSettings | None:
        """How tokens are guessed; None: they are not."""
        if self.speculation == "none":
            return None
        sizes = (self.draft_tokens, self.ngram_min, self.ngram_max, self.speculate_up_to)
        return SpeculationSettings(*sizes)


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings in force: `config` without `auto`, and what follows from it."""

    config: EngineConfig
    num_pages: int
    page_bytes: int
    num_slots: int = 0  # pages of the second tier


def resolve(
    config: EngineConfig,
    model: ModelConfig,
    *,
    cores: int,
    has_native: bool,
    triton_fault: str = "nobody looked for it",
) -> Resolved:
    """Decide everything that was left open. `triton_fault` says why the Triton kernels cannot run
    here, and what to change; empty: they can. Raises ConfigError when it cannot work."""
    triton_fault = triton_fault or _triton_limits(config, model)
    executor = _executor(config, model, has_native=has_native)
    if executor == "triton" and triton_fault:
        raise ConfigError(f"engine.executor is 'triton', but {triton_fault}.")
    precision = "float32" if config.precision == "auto" else config.precision
    if precision not in PRECISIONS[executor]:
        able = " or ".join(repr(name) for name, kinds in PRECISIONS.items() if precision in kinds)
        raise ConfigError(
            f"engine.precision {precision!r} needs engine.executor {able}, but "
            f"{_why(config, executor)}; change one of them."
        )
    sampler = config.sampler
    if sampler == "auto":
        sampler = "native" if executor == "native" else "plain"
    if sampler == "native" and executor != "native":
        raise ConfigError(
            f"engine.sampler 'native' needs engine.executor 'native', but {_why(config, executor)}."
        )
    kv_dtype = _kv_dtype(config, executor, precision)
    context = min(config.context or model.context, model.context)
    chosen = dataclasses.replace(
        config,
        executor=executor,
        precision=precision,
        sampler=sampler,
        kv_dtype=kv_dtype,
        cuda_graphs=_cuda_graphs(config, executor),
        context=context,
        num_threads=config.num_threads or cores,
    )
    return Resolved(chosen, *_pages(chosen, model))


def _executor(config: EngineConfig, model: ModelConfig, *, has_native: bool) -> ExecutorName:
    check_size(model, config.tensor_parallel)
    needs_torch = config.tensor_parallel > 1 or config.device == "cuda"
    if config.executor == "native" and needs_torch:
        what, fix = f"engine.tensor_parallel is {config.tensor_parallel}", "tensor_parallel = 1"
        if config.device == "cuda":
            what, fix = "engine.device is 'cuda'", "device = 'cpu' and tensor_parallel = 1"
        raise ConfigError(
            f"{what}, but engine.executor 'native' computes in one process on the CPU; set "
            f"executor to 'torch' or 'auto', or {fix}."
        )
    if config.executor == "native" and not has_native:
        raise ConfigError(
            "engine.executor is 'native' but the kernels are not built; run `make build`."
        )
    if config.executor != "auto":
        return config.executor
    is_torch = needs_torch or config.precision == "bfloat16" or not has_native
    return "torch" if is_torch else "native"


def _triton_limits(config: EngineConfig, model: ModelConfig) -> str:
    """Why the Triton executor cannot do what is asked; empty: it can."""
    if config.tensor_parallel > 1:
        return (
            f"engine.tensor_parallel is {config.tensor_parallel} and it computes in one process; "
            "set executor to 'torch', or tensor_parallel = 1"
        )
    if model.head_width > TRITON_HEAD_WIDTH:
        return (
            f"the model's heads are {model.head_width} wide and its kernels take up to "
            f"{TRITON_HEAD_WIDTH}; set executor to 'torch'"
        )
    if config.device == "cpu" and config.precision == "bfloat16":
        return (
            "engine.precision is 'bfloat16', which Triton's interpreter cannot compute; set "
            "device = 'cuda', or precision = 'float32'"
        )
    return ""


def _cuda_graphs(config: EngineConfig, executor: str) -> Literal["on", "off"]:
    can = executor == "triton" and config.device == "cuda"
    if config.cuda_graphs == "on" and not can:
        raise ConfigError(
            "engine.cuda_graphs is 'on', which needs engine.executor 'triton' and engine.device "
            f"'cuda', but {_why(config, executor)} and the device is {config.device!r}; leave it "
            "at 'auto'."
        )
    return "on" if can and config.cuda_graphs != "off" else "off"


def _kv_dtype(
    config: EngineConfig, executor: str, precision: str
) -> Literal["float32", "float16", "bfloat16"]:
    if config.kv_dtype == "bfloat16" and executor == "native":
        raise ConfigError(
            "engine.kv_dtype 'bfloat16' needs engine.executor 'torch' or 'triton', but "
            f"{_why(config, executor)}; use 'float16'."
        )
    if config.kv_dtype != "auto":
        return config.kv_dtype
    if precision == "float32":
        return "float32"
    return "bfloat16" if executor == "triton" else "float16"


def _why(config: EngineConfig, executor: str) -> str:
    """What decided on an executor."""
    if config.executor != "auto":
        return f"engine.executor is {executor!r}"
    if config.tensor_parallel > 1:
        return f"engine.tensor_parallel = {config.tensor_parallel} needs {executor!r}"
    return f"{executor!r} is what this machine and engine.device {config.device!r} allow"


def _pages(config: EngineConfig, model: ModelConfig) -> tuple[int, int, int]:
    """Pages of the pool and bytes of one, of all ranks together, which may share kv heads by
    copies; slots of the tier."""
    num_kv_heads = max(model.num_kv_heads, config.tensor_parallel)
    width = 2 * model.num_layers * num_kv_heads * model.head_width
    page_bytes = config.page_size * width * BYTES[config.kv_dtype]
    num_pages = config.memory_mb * 2**20 // page_bytes
    if num_pages < 2:
        raise ConfigError(
            f"engine.memory_mb is {config.memory_mb}, but one page of {config.page_size} tokens "
            f"takes {page_bytes / 2**20:.1f} MB and two are needed; raise memory_mb."
        )
    num_slots = config.tier_mb * 2**20 // page_bytes if config.tier != "none" else 0
    if config.tier != "none" and not num_slots:
        raise ConfigError(
            f"engine.tier_mb is {config.tier_mb}, but one page takes {page_bytes / 2**20:.1f} MB; "
            "raise tier_mb."
        )
    if num_slots and config.tier_step_mb * 2**20 < page_bytes:
        raise ConfigError(
            f"engine.tier_step_mb is {config.tier_step_mb}, but one page takes "
            f"{page_bytes / 2**20:.1f} MB, so none could ever be copied back; raise tier_step_mb."
        )
    return num_pages, page_bytes, num_slots
