"""When is the Triton executor chosen, and what is refused with which advice?"""

import dataclasses

import pytest
import torch

from evolute.engine import Engine
from evolute.engine.build import _triton_fault
from evolute.engine.config import EngineConfig, resolve
from evolute.models import load_model
from evolute.models.tiny import CONFIG
from evolute.types import ConfigError

NO_GPU = "torch finds no GPU here; set device = 'cpu'"


def resolved(fault="", model=CONFIG, **settings):
    config = EngineConfig(**settings)
    return resolve(config, model, cores=1, has_native=True, triton_fault=fault).config


@pytest.mark.parametrize(
    ("settings", "executor"),
    [
        ({"device": "cuda"}, "torch"),
        ({"device": "cuda", "precision": "bfloat16"}, "torch"),
        ({"device": "cuda", "executor": "triton", "precision": "quantized"}, "triton"),
        ({"device": "cuda", "tensor_parallel": 2}, "torch"),
        ({"device": "cuda", "executor": "torch"}, "torch"),
        ({}, "native"),
        ({"precision": "bfloat16"}, "torch"),
    ],
    ids=str,
)
def test_what_auto_takes(settings, executor):
    assert resolved(**settings).executor == executor


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "cuda", "tensor_parallel": 2}, "tensor_parallel = 1"),
        ({"precision": "bfloat16"}, "device = 'cuda'"),
        ({"precision": "int8", "device": "cuda"}, "needs engine.executor 'native'"),
        ({"sampler": "native"}, "engine.sampler 'native' needs"),
        ({"cuda_graphs": "on"}, "leave it at 'auto'"),
        ({"fault": NO_GPU, "device": "cuda"}, "set device = 'cpu'"),
        ({"model": dataclasses.replace(CONFIG, head_width=512)}, "executor to 'torch'"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_with_the_fix(settings, message):
    with pytest.raises(ConfigError, match=message):
        resolved(executor="triton", **settings)


@pytest.mark.parametrize("executor", ["native", "torch"])
def test_graphs_are_refused_on_other_executors(executor):
    with pytest.raises(ConfigError, match=r"needs engine\.executor 'triton'"):
        resolved(executor=executor, cuda_graphs="on")
    with pytest.raises(ConfigError, match=r"needs engine\.executor 'triton'"):
        resolved(executor="torch", device="cuda", cuda_graphs="on")


@pytest.mark.parametrize(
    ("settings", "graphs"),
    [
        ({"device": "cuda", "executor": "triton"}, "on"),
        ({"device": "cuda", "executor": "triton", "cuda_graphs": "off"}, "off"),
        ({"executor": "triton"}, "off"),
        ({}, "off"),
    ],
    ids=str,
)
def test_graphs_are_on_where_they_can_be(settings, graphs):
    assert resolved(**settings).cuda_graphs == graphs


def test_pages_follow_precision():
    assert resolved(device="cuda", executor="triton", precision="bfloat16").kv_dtype == "bfloat16"
    assert resolved(device="cuda").kv_dtype == "float32"
    assert resolved(precision="bfloat16").kv_dtype == "float16"
    assert resolved(kv_dtype="bfloat16", executor="torch").kv_dtype == "bfloat16"
    with pytest.raises(ConfigError, match="use 'float16'"):
        resolved(kv_dtype="bfloat16")


def test_what_the_machine_lacks_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    on_cpu = EngineConfig(executor="triton")
    assert "TRITON_INTERPRET=1" in _triton_fault(on_cpu)
    on_gpu = EngineConfig(executor="triton", device="cuda")
    monkeypatch.setattr("evolute.engine.build.find_spec", lambda name: None)
    assert "pip install triton" in _triton_fault(on_gpu)
    monkeypatch.setattr("evolute.engine.build.find_spec", lambda name: name)
    assert "no GPU" in _triton_fault(on_gpu)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not _triton_fault(on_gpu)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "unset it" in _triton_fault(on_gpu) and not _triton_fault(on_cpu)
    assert _triton_fault(EngineConfig(executor="native"))


def test_an_engine_without_a_gpu_says_so(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(
        ConfigError, match=r"engine\.executor is .triton., but engine\.device is .cpu."
    ):
        Engine(load_model("tiny"), executor="triton")
