"""What does a session of a sandbox cost: its start, a call of each tool, its end?

    python benches/tool_sessions.py [--sessions 40] [--concurrency 1]

Median, 95th percentile, least and most of the wall clock, in milliseconds; sessions hold a small
repository. The figures are of a quiet machine only if it is one.
"""

from __future__ import annotations

import argparse
import asyncio
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


async def one(sandbox: Bubblewrap, found: dict[str, list[float]]) -> None:
    began = time.perf_counter()
    async with sandbox.open(files=FILES) as session:
        found["start"].append(time.perf_counter() - began)
        tools = [Bash(session), Editor(session), CodeInterpreter(session), CodeSearch(session)]
        by_name = {tool.schema["function"]["name"]: tool for tool in tools}
        context = ToolContext(PlainAgent(), "bench")
        for label, arguments in CALLS:
            called = time.perf_counter()
            await by_name[label.split()[0]].call(arguments, context)
            found[label].append(time.perf_counter() - called)
        ended = time.perf_counter()
    found["end"].append(time.perf_counter() - ended)


async def main(sessions: int, concurrency: int) -> None:
    sandbox, found, gate = Bubblewrap(1), defaultdict(list), asyncio.Semaphore(concurrency)

    async def gated() -> None:
        async with gate:
            await one(sandbox, found)

    await one(sandbox, defaultdict(list))  # files of the system are read once
    began = time.perf_counter()
    await asyncio.gather(*(gated() for _ in range(sessions)))
    seconds = time.perf_counter() - began
    print(f"{sessions} sessions, {concurrency} at once: {sessions / seconds:.1f} a second")
    print(f"{'ms':20} {'median':>8} {'p95':>8} {'least':>8} {'most':>8}")
    for label in ("start", *(label for label, _ in CALLS), "end"):
        times = sorted(1000 * t for t in found[label])
        p95 = times[min(len(times) - 1, int(0.95 * len(times)))]
        median = statistics.median(times)
        print(f"{label:20} {median:8.1f} {p95:8.1f} {times[0]:8.1f} {times[-1]:8.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=40)
    parser.add_argument("--concurrency", type=int, default=1)
    asked = parser.parse_args()
    asyncio.run(main(asked.sessions, asked.concurrency))
