"""Weights arrive byte by byte by each way, a late joiner's too; what is torn or lost is told."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.models import LoraConfig, LoraWeights, ModelWeights, load_model
from evolute.train.sync import (
    DeltaReceiver,
    DeltaSender,
    Manifest,
    SharedMemoryReceiver,
    SharedMemorySender,
    pack,
    unpack,
)
from evolute.train.sync.shared_memory import HEADER, MAGIC
from evolute.types import TrainingError, WireError

TINY = load_model("tiny").config


def adapter(seed):
    """An adapter of the tiny model with nothing at zero."""
    weights = LoraWeights.init(LoraConfig(rank=2, targets=("q_proj", "up_proj")), TINY, 0)
    generator = torch.Generator().manual_seed(seed)
    for tensor in weights.parameters():
        tensor.add_(torch.randn(tensor.shape, generator=generator))
    return weights


def model(seed):
    generator = torch.Generator().manual_seed(seed)
    return ModelWeights(
        {
            "b.weight": torch.randn(3, 5, generator=generator).bfloat16(),
            "a.weight": torch.randn(7, generator=generator),
            "c.weight": torch.zeros(2, 2).half(),
        }
    )


@pytest.mark.parametrize("make", [adapter, model])
def test_bytes_and_back(make):
    weights = make(1)
    packed = pack(weights, 4)
    again = unpack(packed)
    assert again.fingerprint() == weights.fingerprint() == packed.manifest.fingerprint
    assert Manifest.from_json(packed.manifest.to_json()) == packed.manifest
    assert pack(again, 4).data == packed.data


@pytest.mark.parametrize("fault", ["flip", "short", "long"])
def test_torn_bytes_are_refused(fault):
    packed = pack(adapter(1), 4)
    data = bytearray(packed.data)
    if fault == "flip":
        data[100] ^= 1
    else:
        data = data[:-1] if fault == "short" else data + b"x"
    with pytest.raises(WireError, match="torn"):
        unpack(type(packed)(packed.manifest, memoryview(data)))


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"entries": 3}', "\x00"])
def test_a_damaged_manifest_is_refused(text):
    with pytest.raises(WireError, match="damaged"):
        Manifest.from_json(text)


def test_a_manifest_whose_tensors_overlap_is_refused():
    text = pack(adapter(1), 4).manifest.to_json().replace('"offset": 0', '"offset": 8', 1)
    with pytest.raises(WireError, match="damaged"):
        Manifest.from_json(text)


# -- shared memory ---------------------------------------------------------------


def test_memory_that_both_map(tmp_path):
    sender = SharedMemorySender(tmp_path / "w")
    receiver = SharedMemoryReceiver(tmp_path / "w")
    for version, weights in enumerate([model(1), adapter(2), adapter(3)]):  # it grows and shrinks
        sender.send(pack(weights, version))
        packed = receiver.receive(version, 1.0)
        assert packed.data == pack(weights, version).data
        assert unpack(packed).fingerprint() == weights.fingerprint()


def test_a_reader_waits_for_its_version(tmp_path):
    sender, receiver = SharedMemorySender(tmp_path / "w"), SharedMemoryReceiver(tmp_path / "w")
    sender.send(pack(adapter(1), 1))
    later = threading.Timer(0.05, lambda: sender.send(pack(adapter(2), 2)))
    later.start()
    assert receiver.receive(2, 30.0).manifest.version == 2
    later.join()


def test_a_sync_that_is_lost_or_torn_is_told(tmp_path):
    path = tmp_path / "w"
    receiver = SharedMemoryReceiver(path)
    with pytest.raises(TrainingError, match="there is nothing"):
        receiver.receive(1, 0.01)
    SharedMemorySender(path).send(pack(adapter(1), 1))
    with pytest.raises(TrainingError, match="there is version 1"):
        receiver.receive(2, 0.01)
    whole = path.read_bytes()
    _, begun, _, *sizes = HEADER.unpack(whole[: HEADER.size])
    path.write_bytes(HEADER.pack(MAGIC, begun, -1, *sizes) + whole[HEADER.size :])
    with pytest.raises(WireError, match="its writer did not end"):
        receiver.receive(1, 0.01)
    path.write_bytes(whole[:-10])
    with pytest.raises(WireError, match="shorter"):
        receiver.receive(1, 0.01)
    path.write_bytes(whole[:-10] + b"0123456789")
    with pytest.raises(WireError, match="torn"):
        receiver.receive(1, 0.01)
    path.write_bytes(b"something else" * 10)
    with pytest.raises(WireError, match="does not hold weights"):
        receiver.receive(1, 0.01)


# -- delta -----------------------------------------------------------------------


def changed(weights, count, seed):
    """A copy with `count` numbers changed."""
    copy, generator = weights.clone(), torch.Generator().manual_seed(seed)
    for _ in range(count):
        tensors = copy.parameters()
        which = int(torch.randint(len(tensors), (1,), generator=generator))
        flat = tensors[which].view(-1)
        flat[int(torch.randint(len(flat), (1,), generator=generator))] += 0.5
    return copy


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_joiner_gets_the_same_bytes(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("chain")
    shards = data.draw(st.integers(1, 3))
    every = data.draw(st.integers(1, 4))
    senders = [DeltaSender(folder, shard, shards, every) for shard in range(shards)]
    faithful, now = DeltaReceiver(folder), adapter(0)
    sent = {}
    for version in range(data.draw(st.integers(1, 6))):
        now = changed(now, data.draw(st.integers(0, 5)), version)
        packed = pack(now, version)
        for sender in senders:
            sender.send(packed)
        senders[0].commit(version, 1.0)
        sent[version] = bytes(packed.data)
        if data.draw(st.booleans()):
            assert bytes(faithful.receive(version, 0.0).data) == sent[version]
    for version, expected in sent.items():  # late ones, also to a version of the past
        late = DeltaReceiver(folder).receive(version, 0.0)
        assert bytes(late.data) == expected
        unpack(late)
    assert bytes(faithful.receive(max(sent), 0.0).data) == sent[max(sent)]


def test_a_delta_carries_what_changed(tmp_path):
    sender, weights = DeltaSender(tmp_path), adapter(0)
    sender.send(pack(weights, 0))
    whole = sender.sent_bytes
    sender.send(pack(changed(weights, 1, 5), 1))
    assert sender.sent_bytes < whole / 5
    sender.send(pack(changed(weights, 1, 5), 2))
    assert sender.sent_bytes < 200  # nothing did


def test_a_broken_chain_is_told_and_what_was_held_stays(tmp_path):
    sender, weights = DeltaSender(tmp_path), adapter(0)
    receiver = DeltaReceiver(tmp_path)
    versions = [weights, changed(weights, 3, 1), changed(weights, 3, 2)]
    for version, one in enumerate(versions):
        sender.send(pack(one, version))
    receiver.receive(0, 0.0)
    shard = tmp_path / "delta-00000001-0000.bin"
    whole = shard.read_bytes()
    for fault in (
        whole[:-1],
        whole[:-1] + b"\x00",
        b"",
        whole.replace(b'"version": 1', b'"version": 9'),
    ):
        shard.write_bytes(fault)
        with pytest.raises(WireError):
            receiver.receive(2, 0.0)
    shard.unlink()
    with pytest.raises(WireError, match="missing"):
        receiver.receive(2, 0.0)
    shard.write_bytes(whole)
    assert bytes(receiver.receive(2, 0.0).data) == bytes(pack(versions[2], 2).data)


def test_a_version_without_all_its_shards_is_not_announced(tmp_path):
    senders = [DeltaSender(tmp_path, shard, 2) for shard in range(2)]
    senders[0].send(pack(adapter(0), 0))
    with pytest.raises(TrainingError, match=r"0001.bin did not come"):
        senders[0].commit(0, 0.01)
    with pytest.raises(TrainingError, match="did not come through"):
        DeltaReceiver(tmp_path).receive(0, 0.01)
    senders[1].send(pack(adapter(0), 0))
    senders[0].commit(0, 1.0)
    DeltaReceiver(tmp_path).receive(0, 0.0)
