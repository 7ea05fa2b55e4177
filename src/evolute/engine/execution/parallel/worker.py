"""A process that computes one rank: `python -m evolute.engine.execution.parallel.worker FD`.

    setup -> loaded -> connect -> ready -> (forward, write, set, drop, weights, ...) -> close

It does what comes over the socket FD, in order. It ends when told to, when the socket's other end
is gone, when its parent is, or with the first error, which it tells: after that it could no longer
be in step with the others. Ctrl-C is the parent's business.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import traceback
from dataclasses import asdict
from typing import Any

import torch

from evolute.engine.config import EngineConfig, Resolved
from evolute.engine.execution.parallel.channel import Channel, Closed, Message
from evolute.engine.execution.parallel.group import TorchGroup, join
from evolute.engine.execution.parallel.rank import RankExecutor, batch_of
from evolute.engine.execution.torch_executor import device_of
from evolute.models import ModelConfig, ModelWeights, RopeScaling
from evolute.models.lora_shards import LoraShard, ShardPart
from evolute.models.partition import Partition
from evolute.types.settings import from_mapping

LOOK_EVERY_S = 60.0


def main() -> None:
    parent = os.getppid()
    connection = socket.socket(fileno=int(sys.argv[1]))
    channel = Channel(connection, lambda: os._exit(1), lambda: os.getppid() != parent)
    try:
        _serve(channel)
    except Closed:
        os._exit(1)
    except BaseException as error:
        traceback.print_exc()
        with contextlib.suppress(OSError):  # then nobody is there to be told
            channel.send("failed", why=f"{type(error).__name__}: {error}")
        os._exit(2)
    os._exit(0)  # gloo's threads wait for peers that may be gone


def _serve(channel: Channel) -> None:
    rank = _start(channel)
    channel.send("ready")
    while (message := _next(channel)).op != "close":
        _do(rank, channel, message)


def _next(channel: Channel) -> Message:
    """An idle engine is no fault: there is no limit but the other end's life."""
    while True:
        try:
            return channel.receive(LOOK_EVERY_S)
        except TimeoutError:
            continue


def _start(channel: Channel) -> RankExecutor:
    setup = _next(channel)
    meta = setup.meta
    config = from_mapping(EngineConfig, meta["config"], "engine.")
    settings = Resolved(config, meta["num_pages"], meta["page_bytes"])
    torch.set_num_threads(meta["num_threads"])
    partition = Partition(model_of(meta["model"]), meta["rank"], config.tensor_parallel)
    device = device_of(config, partition.rank)
    channel.send("loaded")
    connect = _next(channel).meta
    timeout_s = connect["timeout_s"]
    store = join(connect["port"], timeout_s)
    group = TorchGroup(store, partition.rank, partition.size, device, timeout_s)
    return RankExecutor(partition, weights_of(setup), settings, group)


def _do(rank: RankExecutor, channel: Channel, message: Message) -> None:
    meta, arrays = message.meta, message.arrays
    match message.op:
        case "forward":
            rank.forward(batch_of(arrays))
        case "write":
            rank.write_shard(shard_of(message), meta["pages"])
        case "set":
            rank.set_shard(meta["index"], shard_of(message), meta["pages"])
        case "drop":
            rank.drop_adapter(meta["index"])
        case "weights":
            rank.decoder.load(weights_of(message))
            channel.send("done")
        case "read":
            rows = slice(*meta["rows"])
            channel.send("done", {"values": rank.read_rows(meta["name"], rows)})
        case "threads":
            torch.set_num_threads(meta["count"])
        case "count":
            channel.send("done", **counts_of(rank))
        case unknown:
            raise ValueError(f"no command {unknown!r}")


# -- what both sides know -------------------------------------------------------


def model_to(config: ModelConfig) -> dict[str, Any]:
    return asdict(config)


def model_of(values: dict[str, Any]) -> ModelConfig:
    scaling = values["rope_scaling"]
    if scaling is not None:
        scaling = RopeScaling(**(scaling | {"table": tuple(scaling["table"])}))
    stops = tuple(values["eos_token_ids"])
    return ModelConfig(**(values | {"rope_scaling": scaling, "eos_token_ids": stops}))


def weights_of(message: Message) -> ModelWeights:
    return ModelWeights({name: torch.from_numpy(x) for name, x in message.arrays.items()})


def shard_to(shard: LoraShard) -> dict[str, Any]:
    return {"scale": shard.scale, "parts": [[p.layer, p.module, p.a, p.b] for p in shard.parts]}


def shard_of(message: Message) -> LoraShard:
    """Without values when none were sent: they lie in pages."""
    parts = tuple(ShardPart(n, m, tuple(a), tuple(b)) for n, m, a, b in message.meta["parts"])
    flat = message.arrays.get("flat")
    values = torch.zeros(0) if flat is None else torch.from_numpy(flat)
    return LoraShard(message.meta["scale"], parts, values)


def counts_of(rank: RankExecutor) -> dict[str, float]:
    return {
        "weight_bytes": rank.weight_bytes,
        "page_bytes": rank.pool_bytes,
        "sent_floats": rank.group.sent_floats,
        "pid": os.getpid(),
    }


if __name__ == "__main__":
    main()
