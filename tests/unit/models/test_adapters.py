"""PEFT directories: what is refused, and that writing is whole or not at all."""

import gc
import json
import os
import sys

import pytest
import safetensors.torch
import torch
from safetensors.torch import save_file

from evolute.models import LoraConfig, LoraWeights, load_model, load_peft, save_peft
from evolute.models.export import export_model
from evolute.models.files import peft_dir
from evolute.models.files.safetensors_dir import read_tensors
from evolute.models.files.writing import new_directory
from evolute.models.tiny import CONFIG
from evolute.types import ConfigError, ModelError

BOTH = ("adapter_config.json", "adapter_model.safetensors")


def adapter(seed=0, rank=4):
    lora = LoraWeights.init(LoraConfig(rank=rank), CONFIG, seed=seed)
    for _, b in lora.tensors.values():
        b.normal_(generator=torch.Generator().manual_seed(seed))
    return lora


@pytest.fixture
def directory(tmp_path):
    save_peft(adapter(), tmp_path / "a", "base")
    return tmp_path / "a"


def test_every_field_that_changes_the_arithmetic_is_refused(directory):
    """The installed peft's own fields, each set to what is not its default."""
    peft = pytest.importorskip("peft")
    file = directory / "adapter_config.json"
    values = json.loads(file.read_text())
    ours = peft_dir.HARMLESS | peft_dir.READ | peft_dir.CHECKED.keys()
    others = set(peft.LoraConfig(task_type="CAUSAL_LM").to_dict()) - ours
    assert {"use_dora", "rank_pattern", "modules_to_save", "layer_replication"} <= others
    for name in others:
        file.write_text(json.dumps(values | {name: {"x": 1}}))
        with pytest.raises(ModelError, match=f"the adapter sets {name}="):
            load_peft(directory)


def test_the_defaults_of_peft_are_accepted(directory):
    peft = pytest.importorskip("peft")
    file = directory / "adapter_config.json"
    defaults = peft.LoraConfig().to_dict() | json.loads(file.read_text())
    file.write_text(json.dumps(defaults | {"a_field_of_next_year": None}, default=str))
    assert load_peft(directory).fingerprint() == adapter().fingerprint()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peft_type": "IA3"}, "sets peft_type='IA3'"),
        ({"peft_type": None}, "peft_type"),
        ({"bias": "all"}, "sets bias='all'"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4'"),
        ({"a_field_of_next_year": 0.5}, "a_field_of_next_year=0.5"),
        ({"r": None}, "lacks 'r'"),
        ({"lora_alpha": "x"}, "expected a number"),
        ({"r": 8}, "its config says rank 8"),
    ],
)
def test_a_config_that_cannot_be_honoured_is_refused(values, message, directory):
    file = directory / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    with pytest.raises(ModelError, match=message):
        load_peft(directory)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("base_model.model.lm_head.lora_A.weight", "belongs to no layer"),
        ("base_model.model.model.layers.0.mlp.q_proj.lora_A.weight", "belongs to no layer"),
        ("base_model.model.vision.layers.0.mlp.up_proj.lora_A.weight", "belongs to no layer"),
        ("base_model.model.model.layers.9.mlp.up_proj.lora_A.weight", "A and B are needed"),
    ],
)
def test_a_tensor_of_another_place_is_refused(name, message, directory):
    file = directory / "adapter_model.safetensors"
    save_file(read_tensors(file) | {name: torch.zeros(4, 64)}, file)
    with pytest.raises(ModelError, match=message):
        load_peft(directory)


def test_a_damaged_adapter_names_the_file(directory):
    os.truncate(directory / "adapter_model.safetensors", 100)
    with pytest.raises(ModelError, match=r"adapter_model.safetensors cannot be read"):
        load_peft(directory)


def test_reading_again_and_again_leaves_nothing(directory):
    """safetensors 0.8.0 loses two numbers for each tensor that it reads from a file by itself."""
    for _ in range(5):
        load_peft(directory)
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(100):
        load_peft(directory)
    gc.collect()
    assert sys.getallocatedblocks() - before < 100  # one for a reading; it was 56


def test_an_adapter_of_another_model_is_refused(tmp_path):
    model = load_model("tiny")
    wrong = LoraWeights(LoraConfig(), {(0, "q_proj"): (torch.zeros(16, 65), torch.zeros(64, 16))})
    with pytest.raises(ConfigError, match="The adapter is of another model"):
        export_model(model, tmp_path / "m", wrong)
    far = LoraWeights(LoraConfig(), {(7, "q_proj"): (torch.zeros(16, 64), torch.zeros(64, 16))})
    with pytest.raises(ConfigError, match="the model has 2 layers"):
        export_model(model, tmp_path / "m", far)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", range(14))
def test_a_save_that_dies_at_any_step_leaves_an_adapter_whole(step, tmp_path, monkeypatch):
    """Each system call that writes, syncs or renames is where it dies, one after the other."""
    target, (old, new) = tmp_path / "a", (adapter(1), adapter(2, rank=8))
    save_peft(old, target, "base")
    assert load_peft(target).fingerprint() != new.fingerprint()
    calls = 0

    def dying(function):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls > step:
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for owner, name in ((safetensors.torch, "save_file"), (os, "fsync"), (os, "rename")):
            patch.setattr(owner, name, dying(getattr(owner, name)))
        for name in ("rename", "write_text"):
            patch.setattr(type(target), name, dying(getattr(type(target), name)))
        try:
            save_peft(new, target, "base")
            died = False
        except KeyboardInterrupt:
            died = True
    kept = target if target.exists() else tmp_path / ".a.old"
    assert load_peft(kept).fingerprint() in (old.fingerprint(), new.fingerprint())
    assert died or load_peft(target).fingerprint() == new.fingerprint()
    save_peft(new, target, "base")
    assert load_peft(target).fingerprint() == new.fingerprint()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_files_of_others_are_not_lost(directory):
    (directory / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds 'notes.txt', which would be lost"):
        save_peft(adapter(3), directory, "base")
    assert load_peft(directory).fingerprint() == adapter().fingerprint()


def test_an_error_while_writing_leaves_the_old_adapter_in_its_place(directory, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_peft(adapter(3), directory, "base")
    assert load_peft(directory).fingerprint() == adapter().fingerprint()
    assert [entry.name for entry in directory.parent.iterdir()] == ["a"]


def test_what_a_kill_left_beside_is_put_back(directory):
    directory.rename(directory.parent / ".a.old")
    (directory.parent / ".a.partial").mkdir()
    with pytest.raises(ZeroDivisionError), new_directory(directory, replaces=BOTH):
        1 / 0  # noqa: B018
    assert load_peft(directory).fingerprint() == adapter().fingerprint()
    assert [entry.name for entry in directory.parent.iterdir()] == ["a"]
