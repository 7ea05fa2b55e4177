import pytest

from evolute.engine import EngineConfig
from evolute.train import TrainConfig
from evolute.types import ConfigError, RequestError, SamplingParams
from evolute.types.settings import load


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("page_sise=4", "Did you mean 'page_size'"),
        ("page_size=0", "between 1 and 16"),
        ("page_size=four", "must be of type int"),
        ("policy=lpn", "Did you mean 'lpm'"),
        ("max_running", "has no '='"),
    ],
)
def test_a_bad_setting_names_the_fix(override, message):
    with pytest.raises(ConfigError, match=message):
        load(EngineConfig, overrides=[override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algorithm.loss.dual_clip=2", "does nothing"),
        ("samples_per_prompt=1", "no advantage"),
        ("algorithm.advantage=gpro", "Did you mean 'grpo'"),
        ("lora.targets=q_porj", "unknown"),
        ("temperature=0", "above 0"),
    ],
)
def test_a_training_setting_without_effect_is_an_error(override, message):
    with pytest.raises(ConfigError, match=message):
        load(TrainConfig, overrides=[override])


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"n": 0},
        {"stop": ("",)},
        {"regex": "a", "json_schema": "{}"},
    ],
)
def test_sampling_settings_are_checked_when_made(values):
    with pytest.raises(RequestError):
        SamplingParams(**values)
