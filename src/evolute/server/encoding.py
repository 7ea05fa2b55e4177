"""Long texts become tokens beside the event loop: others are not to wait for them.

    await encoded(texts, work, *arguments)     work(*arguments); in a thread when `texts` are long
    is_long(values)                            has JSON more text and items than are worth no thread

NUM_THREADS work at once, whatever is sent; more waits for one of them, and nobody else.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

INLINE_CHARS = 20_000
NUM_THREADS = 2


async def encoded(texts: Any, work: Callable[..., T], *arguments: Any) -> T:
    """`texts` is any JSON; it only decides where the work is done."""
    if not is_long(texts):
        return work(*arguments)
    return await asyncio.get_running_loop().run_in_executor(_threads(), work, *arguments)


def is_long(values: Any, most: int = INLINE_CHARS) -> bool:
    """Looks no further than it must."""
    left, stack = most, [values]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            left -= len(value)
        elif isinstance(value, Mapping):
            left -= len(value)
            if left >= 0:
                stack += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            left -= len(value)
            if left >= 0 and value and type(value[0]) is not int:
                stack += value
        if left < 0:
            return True
    return False


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="evolute-encode")
