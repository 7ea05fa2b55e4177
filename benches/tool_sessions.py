"""What does a session of a sandbox cost: its start, a call of each tool, its end?

    python benches/tool_sessions.py [--sessions 40] [--concurrency 1]

Median, 95th percentile, least and most of the wall clock, in milliseconds, and what a session uses
of the processor, which a busy machine changes less. Sessions hold a small repository.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import time
from collections import defaultdict

from evolute.envs.sandbox import Bubblewrap
from evolute.envs.tools.bash import Bash
from evolute.envs.tools.code_interpreter import CodeInterpreter
from evolute.envs.tools.code_search import CodeSearch
from evolute.envs.tools.contract import ToolContext
from evolute.envs.tools.editor import Editor
from evolute.envs.tools.registry import PlainAgent

FILES = {f"pkg/m{k}.py": f"def f{k}(x):\n    return x + {k}\n".encode() for k in range(10)}
CALLS = (
    ("bash", {"command": "ls pkg"}),
    ("editor", {"command": "view", "path": "pkg/m1.py"}),
    ("editor edit", {"command": "str_replace",
     "path": "pkg/m1.py", "old_str": "+ 1", "new_str": "- 1"}),
    ("code_interpreter", {"code": "6 * 7"}),
    ("code_search first", {"search_terms": ["f3"]}),
    ("code_search again", {"search_terms": ["f4"]}),
)  # fmt: skip


async def one(sandbox: Bubblewrap, found: dict[str, list[float]], *, calls: bool) -> None:
    began = time.perf_counter()
    async with sandbox.open(files=FILES) as session:
        found["start"].append(time.perf_counter() - began)
        tools = [Bash(session), Editor(session), CodeInterpreter(session), CodeSearch(session)]
        by_name = {tool.schema["function"]["name"]: tool for tool in tools}
        context = ToolContext(PlainAgent(), "bench")
        for label, arguments in CALLS * calls:
            called = time.perf_counter()
            await by_name[label.split()[0]].call(arguments, context)
            found[label].append(time.perf_counter() - called)
        ended = time.perf_counter()
    found["end"].append(time.perf_counter() - ended)


async def round_of(sessions: int, concurrency: int, *, calls: bool) -> None:
    sandbox, gate = Bubblewrap(1), asyncio.Semaphore(concurrency)
    found: dict[str, list[float]] = defaultdict(list)

    async def gated() -> None:
        async with gate:
            await one(sandbox, found, calls=calls)

    await one(sandbox, defaultdict(list), calls=calls)  # files of the system are read once
    began, used = time.perf_counter(), processor_s()
    await asyncio.gather(*(gated() for _ in range(sessions)))
    seconds, used = time.perf_counter() - began, processor_s() - used
    print(
        f"{sessions} sessions{', all tools once each' if calls else ' without a call'}, "
        f"{concurrency} at once: {sessions / seconds:.1f} a second, "
        f"{1000 * used / sessions:.1f} ms of processor each"
    )
    print(f"{'ms':20} {'median':>8} {'p95':>8} {'least':>8} {'most':>8}")
    for label, values in found.items():
        times = sorted(1000 * value for value in values)
        p95 = times[min(len(times) - 1, int(0.95 * len(times)))]
        median = statistics.median(times)
        print(f"{label:20} {median:8.1f} {p95:8.1f} {times[0]:8.1f} {times[-1]:8.1f}")


def processor_s() -> float:
    """Of this process and all its ended children."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, kinds))


async def main(sessions: int, concurrency: int) -> None:
    for calls in (False, True):
        await round_of(sessions, concurrency, calls=calls)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=40)
    parser.add_argument("--concurrency", type=int, default=1)
    asked = parser.parse_args()
    asyncio.run(main(asked.sessions, asked.concurrency))
