"""Traffic that can be replayed: recorded from a run, or made from a seed.

    make_workload("shared", vocab_size) -> list[WorkItem]
    save_workload(items, path), load_workload(path)
    shareable_tokens(items)      prompt tokens that the best possible prefix cache computes once

One JSON line a request: {"id", "prompt": [ids], "max_new_tokens", "arrival_s"} and what else of a
WorkItem is not as usual. Token ids are random, so no tokenizer is needed and every model of the
same vocabulary gets the same work. Shapes and their sizes: `evolute/bench/shapes`.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evolute.bench.shapes import Dice, WorkItem, plain, sglang, slora, vtc
from evolute.types import ConfigError
from evolute.types.settings import nearest

MAKERS: dict[str, Callable[[Dice], list[WorkItem]]] = {
    **plain.SHAPES,
    **sglang.SHAPES,
    **vtc.SHAPES,
    **slora.SHAPES,
}
SHAPES = tuple(MAKERS)


def make_workload(
    shape: str, vocab_size: int, *, seed: int = 0, scale: float = 1.0
) -> list[WorkItem]:
    """A named workload; equal arguments give equal requests. `scale` shrinks numbers of requests
    and tokens alike, to one at least. Raises ConfigError for an unknown name."""
    if shape not in MAKERS:
        raise ConfigError(f"no workload {shape!r}. {nearest(shape, SHAPES)}")
    if not scale > 0:
        raise ConfigError(f"scale is {scale:g}; it must be above 0.")
    return MAKERS[shape](Dice(random.Random(seed), vocab_size, scale, seed))


def save_workload(items: Sequence[WorkItem], path: Path) -> None:
    """Write the requests in order; replaces the file, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(_line(item)) + "\n" for item in items))
    temporary.replace(path)


def load_workload(path: Path) -> list[WorkItem]:
    """Raises ConfigError for a missing, damaged or empty file."""
    try:
        values = [json.loads(line) for line in path.read_text().splitlines() if line]
        items = [_item(v) for v in values]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"workload {path} cannot be read: {error!r}") from error
    if not items:
        raise ConfigError(f"workload {path} holds no requests; record or make one.")
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise ConfigError(f"workload {path} has two requests {item.id!r}; ids must differ.")
        if not seen.issuperset(item.after):
            raise ConfigError(
                f"workload {path}: {item.id!r} waits for {', '.join(item.after)}; what a request "
                "waits for must stand above it."
            )
        seen.add(item.id)
    return items


def shareable_tokens(items: Sequence[WorkItem]) -> int:
    """Prompt tokens that lie on a prefix of another prompt: all but the edges of their trie.

    What no prefix cache can exceed when it starts empty and holds everything, replies apart.
    """
    ordered = sorted(item.prompt for item in items)
    return sum(_common(a, b) for a, b in itertools.pairwise(ordered))


# -- internals ---------------------------------------------------------------

USUAL = asdict(WorkItem("", (), 0))
ALWAYS = ("id", "prompt", "max_new_tokens", "arrival_s")


def _line(item: WorkItem) -> dict[str, Any]:
    return {k: v for k, v in asdict(item).items() if k in ALWAYS or v != USUAL[k]}


def _item(values: Mapping[str, Any]) -> WorkItem:
    unknown = sorted(set(values) - set(USUAL))
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r}. {nearest(unknown[0], USUAL)}")
    adapter, schema = values.get("adapter"), values.get("json_schema")
    return WorkItem(
        str(values["id"]),
        tuple(map(int, values["prompt"])),
        int(values["max_new_tokens"]),
        float(values.get("arrival_s", 0.0)),
        tenant=str(values.get("tenant", USUAL["tenant"])),
        adapter=None if adapter is None else str(adapter),
        after=tuple(map(str, values.get("after", ()))),
        program=str(values.get("program", "")),
        json_schema=None if schema is None else str(schema),
    )


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    for i, (x, y) in enumerate(zip(a, b)):
        if x != y:
            return i
    return min(len(a), len(b))
