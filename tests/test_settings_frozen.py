"""Public settings are a promise: adding or renaming one is a visible, reviewed line."""

from evolute.cli.main_job import LoopConfig
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
    "engine.sampler",
    "engine.kv_dtype",
    "engine.context",
    "engine.max_running",
    "engine.token_budget",
    "engine.page_size",
    "engine.memory_mb",
    "engine.prefix_cache",
    "engine.adapter_paging",
    "engine.adapter_prefetch",
    "engine.adapter_host_mb",
    "engine.policy",
    "engine.cost",
    "engine.predict",
    "engine.quantum",
    "engine.tenant_weights",
    "engine.max_waiting",
    "engine.num_threads",
    "tune.trials",
    "tune.pairs",
    "tune.requests",
)


def test_keys_are_these():
    assert tuple(keys(LoopConfig)) == KEYS


def test_settings_survive_the_way_to_a_file_and_back(tmp_path):
    config = from_mapping(LoopConfig, {"train": {"steps": 3, "lora": {"targets": ["q_proj"]}}})
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config))
    assert load(LoopConfig, files=[file]) == config
