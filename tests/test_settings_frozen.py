"""Public settings are a promise: adding or renaming one is a visible, reviewed line."""

from evolute.cli.main_job import LoopConfig
from evolute.reasoning.baselines import PalConfig, PlainConfig, TreeConfig, VotesConfig
from evolute.reasoning.thought_buffer import ThoughtConfig
from evolute.train.sft import SftConfig
from evolute.types.settings import from_mapping, keys, load, to_toml

KEYS = (
    "host",
    "port",
    "eval_count",
    "trace",
    "train.model",
    "train.task",
    "train.seed",
    "train.steps",
    "train.prompts_per_step",
    "train.samples_per_prompt",
    "train.max_new_tokens",
    "train.temperature",
    "train.epochs",
    "train.mini_batches",
    "train.micro_batch_tokens",
    "train.precision",
    "train.fused",
    "train.skip_zero_advantage",
    "train.update_nice",
    "train.train_retries",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.algorithm.advantage",
    "train.algorithm.reduction",
    "train.algorithm.loss.name",
    "train.algorithm.loss.clip_low",
    "train.algorithm.loss.clip_high",
    "train.algorithm.loss.dual_clip",
    "train.algorithm.off_policy.outlier_low",
    "train.algorithm.off_policy.outlier_high",
    "train.algorithm.off_policy.token_low",
    "train.algorithm.off_policy.token_high",
    "train.algorithm.off_policy.truncate",
    "train.algorithm.off_policy.geometric_low",
    "train.algorithm.off_policy.geometric_high",
    "train.algorithm.off_policy.product_low",
    "train.algorithm.off_policy.product_high",
    "train.optimizer.lr",
    "train.optimizer.beta1",
    "train.optimizer.beta2",
    "train.optimizer.weight_decay",
    "train.optimizer.warmup_steps",
    "train.optimizer.decay",
    "train.optimizer.max_grad_norm",
    "train.method",
    "train.lora.rank",
    "train.lora.alpha",
    "train.lora.targets",
    "train.lora.rslora",
    "engine.executor",
    "engine.precision",
    "engine.device",
    "engine.tensor_parallel",
    "engine.sampler",
    "engine.kv_dtype",
    "engine.context",
    "engine.max_running",
    "engine.token_budget",
    "engine.page_size",
    "engine.memory_mb",
    "engine.prefix_cache",
    "engine.shared_attention",
    "engine.tier",
    "engine.tier_mb",
    "engine.tier_dir",
    "engine.tier_restore",
    "engine.tier_queue_mb",
    "engine.adapter_paging",
    "engine.adapter_prefetch",
    "engine.adapter_cluster",
    "engine.adapter_host_mb",
    "engine.policy",
    "engine.cost",
    "engine.predict",
    "engine.quantum",
    "engine.tenant_weights",
    "engine.speculation",
    "engine.draft_tokens",
    "engine.ngram_min",
    "engine.ngram_max",
    "engine.speculate_up_to",
    "engine.first_token_deadline_s",
    "engine.max_waiting",
    "engine.num_threads",
    "tune.trials",
    "tune.pairs",
    "tune.requests",
)
SFT_KEYS = (
    "model",
    "data",
    "mix",
    "train_on",
    "epochs",
    "batch_size",
    "max_tokens",
    "too_long",
    "micro_batch_tokens",
    "method",
    "lora.rank",
    "lora.alpha",
    "lora.targets",
    "lora.rslora",
    "optimizer.lr",
    "optimizer.beta1",
    "optimizer.beta2",
    "optimizer.weight_decay",
    "optimizer.warmup_steps",
    "optimizer.decay",
    "optimizer.max_grad_norm",
    "precision",
    "fused",
    "seed",
    "checkpoint_every",
    "keep_checkpoints",
)

BASELINE_KEYS = {
    "cot": ("max_new_tokens", "temperature"),
    "majority": ("samples", "temperature", "max_new_tokens"),
    "tree_of_thoughts": ("breadth", "depth", "proposals", "votes", "temperature", "max_new_tokens"),
    "pal": (
        "attempts",
        "max_new_tokens",
        "temperature",
        "packages",
        "limits.seconds",
        "limits.cpu_seconds",
        "limits.memory_mb",
        "limits.max_processes",
        "limits.max_open_files",
        "limits.disk_mb",
        "limits.max_output_bytes",
    ),
}
THOUGHT_KEYS = (
    "path",
    "use_above",
    "new_below",
    "weight",
    "attempts",
    "grow",
    "seeds",
    "distiller",
    "max_new_tokens",
    "temperature",
    "packages",
    "embed_url",
    "embed_model",
    "limits.seconds",
    "limits.cpu_seconds",
    "limits.memory_mb",
    "limits.max_processes",
    "limits.max_open_files",
    "limits.disk_mb",
    "limits.max_output_bytes",
)


def test_keys_are_these():
    assert tuple(keys(LoopConfig)) == KEYS
    assert tuple(keys(SftConfig)) == SFT_KEYS


def test_keys_of_the_thought_buffer_and_the_baselines_are_these():
    configs = {
        "cot": PlainConfig,
        "majority": VotesConfig,
        "tree_of_thoughts": TreeConfig,
        "pal": PalConfig,
    }
    assert {name: tuple(keys(config)) for name, config in configs.items()} == BASELINE_KEYS
    assert tuple(keys(ThoughtConfig)) == THOUGHT_KEYS


def test_settings_survive_the_way_to_a_file_and_back(tmp_path):
    config = from_mapping(LoopConfig, {"train": {"steps": 3, "lora": {"targets": ["q_proj"]}}})
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config))
    assert load(LoopConfig, files=[file]) == config
