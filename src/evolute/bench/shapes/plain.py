"""Five plain workloads; `batch`, `shared` and `single` have the sizes of the peers' figures.

batch     64 requests, prompts of 32-256, 128 new
http      the same requests, 32 in flight
shared    64 of 512 shared + 32 own, 32 new
single    one of 128, 128 new
chat      8 conversations of 6 turns; each prompt holds the turns before it
arrivals  64 requests like batch, at random moments, 4 a second
"""

from __future__ import annotations

from collections.abc import Callable

from evolute.bench.shapes.item import Dice, WorkItem


def batch(dice: Dice, name: str = "batch") -> list[WorkItem]:
    return [
        WorkItem(f"{name}-{i}", dice.tokens(dice.sized(dice.source.randint(32, 256))), new)
        for new in (dice.sized(128),)
        for i in range(dice.sized(64))
    ]


def http(dice: Dice) -> list[WorkItem]:
    return batch(dice, "http")


def shared(dice: Dice) -> list[WorkItem]:
    prefix = dice.tokens(dice.sized(512))
    return [
        WorkItem(f"shared-{i}", (*prefix, *dice.tokens(dice.sized(32))), dice.sized(32))
        for i in range(dice.sized(64))
    ]


def single(dice: Dice) -> list[WorkItem]:
    return [WorkItem("single-0", dice.tokens(dice.sized(128)), dice.sized(128))]


def chat(dice: Dice) -> list[WorkItem]:
    """The replies that later turns quote are random too: a recording of somebody's talk."""
    items = []
    for talk in range(dice.sized(8)):
        prompt: tuple[int, ...] = ()
        after: tuple[str, ...] = ()
        for turn in range(6):
            id = f"chat-{talk}-{turn}"
            prompt += dice.tokens(dice.sized(dice.source.randint(16, 64)))
            items.append(
                WorkItem(
                    id, prompt, dice.sized(48), 2.0 * turn, after=after, program=f"chat-{talk}"
                )
            )
            prompt, after = prompt + dice.tokens(dice.sized(48)), (id,)
    return sorted(items, key=lambda item: item.arrival_s)


def arrivals(dice: Dice) -> list[WorkItem]:
    now, items = 0.0, []
    for item in batch(dice, "arrivals"):
        now += dice.source.expovariate(4.0)
        items.append(WorkItem(item.id, item.prompt, item.max_new_tokens, round(now, 4)))
    return items


SHAPES: dict[str, Callable[[Dice], list[WorkItem]]] = {
    "batch": batch,
    "http": http,
    "shared": shared,
    "single": single,
    "chat": chat,
    "arrivals": arrivals,
}
