"""How do the same programs run on the same server, written for and run by the `sglang` front end?

    python benches/programs_peer.py --sglang-python PYTHON [--model M] [--rounds 3] [--shapes a,b]

PYTHON is an interpreter that can `import sglang` (`pip install sglang --no-deps`, and what its
import asks for; no GPU). The files of `evolute/lang/shapes` are run there with one import changed.
Each round empties the server's cache, then ours by `RuntimeEndpoint` and theirs take turns. What
sglang writes around turns comes from its own list of chat templates, so chats are other texts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

SHAPES = Path(__file__).parents[1] / "src" / "evolute" / "lang" / "shapes"
FILES = {"multi_turn_short": "multi_turn", "multi_turn_long": "multi_turn"}
SEED = 1
UNTRACED: list[Any] = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sglang-python")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shapes", default="")
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], dest="words")
    parser.add_argument("--serve-commands", metavar="URL", help="the part that runs under sglang")
    given = parser.parse_args()
    if given.serve_commands:
        answer_commands(given.serve_commands)
    else:
        compare(given)


# -- in our interpreter ----------------------------------------------------------


def compare(given: Any) -> None:
    import httpx

    from evolute.bench.load.local import own_server
    from evolute.lang import RuntimeEndpoint
    from evolute.lang.shapes import SHAPES

    names = given.shapes.split(",") if given.shapes else list(SHAPES)
    ratios = []
    with own_server(given.model, given.words) as server:
        endpoint = RuntimeEndpoint(server.url)
        command = [given.sglang_python, __file__, "--serve-commands", server.url]
        peer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in names:
            shape, rounds = SHAPES[name], []
            for number in range(-1, given.rounds):  # the first warms both
                arguments = shape.inputs(given.count or shape.count, seed=number)
                order = ("ours", "sglang") if number % 2 else ("sglang", "ours")
                seconds = {}
                for side in order:
                    httpx.post(f"{server.url}/flush_cache", timeout=60, trust_env=False)
                    if side == "ours":
                        began = time.perf_counter()
                        states = shape.program.run_batch(
                            arguments, backend=endpoint, temperature=0, seed=SEED
                        )
                        for state in states:
                            state.sync()
                        seconds[side] = time.perf_counter() - began
                    else:
                        seconds[side] = asked(peer, {"shape": name, "arguments": arguments})
                if number >= 0:
                    rounds.append((seconds["ours"], seconds["sglang"]))
            ratio = statistics.geometric_mean(theirs / own for own, theirs in rounds)
            ratios.append(ratio)
            own, theirs = (statistics.median(side) for side in zip(*rounds))
            print(f"{name:20} ours {own:6.2f} s  sglang {theirs:6.2f} s  {ratio:5.2f}", flush=True)
        assert peer.stdin is not None
        peer.stdin.close()
        peer.wait(timeout=60)
        endpoint.close()
    print(f"geometric mean {statistics.geometric_mean(ratios):.2f}, n = {given.rounds}")


def asked(peer: Any, command: dict[str, Any]) -> float:
    """Raises RuntimeError with the peer's words when it failed."""
    peer.stdin.write(json.dumps(command) + "\n")
    peer.stdin.flush()
    answer = json.loads(peer.stdout.readline())
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return float(answer["seconds"])


# -- in an interpreter that has sglang ---------------------------------------------


def answer_commands(url: str) -> None:
    import sglang

    sglang.set_default_backend(sglang.RuntimeEndpoint(url))
    out, sys.stdout = sys.stdout, sys.stderr  # sglang prints
    sys.modules["evolute"] = types.ModuleType("evolute")
    sys.modules["evolute.lang"] = sglang
    shapes = types.ModuleType("evolute.lang.shapes")
    shapes.__path__ = [str(SHAPES)]  # its files are found there, its __init__ is not run
    sys.modules["evolute.lang.shapes"] = shapes
    sys.modules["evolute"].lang = sglang  # type: ignore[attr-defined]
    for line in sys.stdin:
        out.write(json.dumps(run_under_sglang(json.loads(line))) + "\n")
        out.flush()


def run_under_sglang(command: dict[str, Any]) -> dict[str, Any]:
    import importlib

    name = command["shape"]
    module = importlib.import_module(f"evolute.lang.shapes.{FILES.get(name, name)}")
    program = getattr(module, name)
    began = time.perf_counter()
    try:
        for state in batch(program, command["arguments"]):
            state.sync()
            if state.error() is not None:
                return {"error": f"{name}: {state.error()}"}
    except Exception as error:
        return {"error": f"{name}: {type(error).__name__}: {error}"}
    return {"seconds": time.perf_counter() - began}


def batch(program: Any, arguments: list[dict[str, Any]]) -> Any:
    """A program that sglang cannot trace (its text depends on an argument in more ways than by
    standing in it) runs without its prefix put into the cache first."""
    from sglang.lang.global_config import global_config

    global_config.enable_precache_with_tracing = program not in UNTRACED
    try:
        return program.run_batch(arguments, temperature=0)
    except (KeyError, ValueError, IndexError):
        if program in UNTRACED:
            raise
        UNTRACED.append(program)
        return batch(program, arguments)


if __name__ == "__main__":
    main()
