"""How do several calls run at once, so that one failure leaves none of them behind?

await together(coroutines) -> list     all results, in order
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def together(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The first failure cancels the rest; nothing is left running when this raises."""
    jobs = [asyncio.ensure_future(one) for one in coroutines]
    try:
        return list(await asyncio.gather(*jobs))
    finally:
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
