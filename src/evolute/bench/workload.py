"""Traffic that can be replayed: recorded from a run, or made from a seed.

One JSON line a request: {"id", "prompt": [ids], "max_new_tokens", "adapter"}.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from evolute.types import ConfigError
from evolute.types.settings import nearest


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One request; `max_new_tokens` are made whatever the model says."""

    id: str
    prompt: tuple[int, ...]
    max_new_tokens: int


SHAPES = ("batch", "shared", "single")


def make_workload(
    shape: str, vocab_size: int, *, seed: int = 0, scale: float = 1.0
) -> list[WorkItem]:
    """batch: 64 requests, prompts of 32-256, 128 new. shared: 64 of 512 shared + 32 own, 32 new.
    single: one of 128 + 128. `scale` shrinks numbers of requests and tokens alike."""
    source = random.Random(seed)
    count, sizes, shared, new = {
        "batch": (64, (32, 256), 0, 128),
        "shared": (64, (32, 32), 512, 32),
        "single": (1, (128, 128), 0, 128),
    }.get(shape) or _unknown(shape)

    def tokens(number: int) -> list[int]:
        return [source.randrange(16, vocab_size) for _ in range(max(int(number * scale), 1))]

    prefix = tokens(shared) if shared else []
    return [
        WorkItem(
            f"{shape}-{i}", (*prefix, *tokens(source.randint(*sizes))), max(int(new * scale), 1)
        )
        for i in range(max(int(count * scale), 1))
    ]


def save_workload(items: Sequence[WorkItem], path: Path) -> None:
    path.write_text("".join(json.dumps(asdict(item)) + "\n" for item in items))


def load_workload(path: Path) -> list[WorkItem]:
    """Raises ConfigError for a missing or damaged file."""
    try:
        values = [json.loads(line) for line in path.read_text().splitlines() if line]
        return [WorkItem(v["id"], tuple(v["prompt"]), v["max_new_tokens"]) for v in values]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"workload {path} cannot be read: {error}") from error


def _unknown(shape: str) -> tuple[int, tuple[int, int], int, int]:
    raise ConfigError(f"no workload {shape!r}. {nearest(shape, SHAPES)}")
