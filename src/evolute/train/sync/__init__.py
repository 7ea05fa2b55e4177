"""Ways of new weights to engines, by name, and the proof that they arrived.

`in_process` is `publish`; the others are pairs of a sender and a receiver for `publish_remotely`.
"""

from evolute.train.sync.broadcast import BroadcastReceiver, BroadcastSender, OwnGroup
from evolute.train.sync.delta import DeltaReceiver, DeltaSender
from evolute.train.sync.loopback import Loopback
from evolute.train.sync.proof import PublishProof
from evolute.train.sync.publish import LiveEngine, publish
from evolute.train.sync.remote import (
    Channel,
    EngineHolder,
    Publishable,
    Receiver,
    Sender,
    answer,
    attend,
    publish_remotely,
    release,
)
from evolute.train.sync.shared_memory import SharedMemoryReceiver, SharedMemorySender
from evolute.train.sync.wire import Manifest, Packed, pack, unpack

WAYS: dict[str, tuple[type[Sender], type[Receiver]]] = {
    "shared_memory": (SharedMemorySender, SharedMemoryReceiver),
    "broadcast": (BroadcastSender, BroadcastReceiver),
    "delta": (DeltaSender, DeltaReceiver),
}

__all__ = [
    "WAYS",
    "BroadcastReceiver",
    "BroadcastSender",
    "Channel",
    "DeltaReceiver",
    "DeltaSender",
    "EngineHolder",
    "LiveEngine",
    "Loopback",
    "Manifest",
    "OwnGroup",
    "Packed",
    "PublishProof",
    "Publishable",
    "Receiver",
    "Sender",
    "SharedMemoryReceiver",
    "SharedMemorySender",
    "answer",
    "attend",
    "pack",
    "publish",
    "publish_remotely",
    "release",
    "unpack",
]
