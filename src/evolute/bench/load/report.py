"""A load test as text for people.

text(result) -> lines
"""

from __future__ import annotations

from collections.abc import Mapping

from evolute.bench.load.figures import PARTS
from evolute.bench.result import BenchResult

COUNTS = ("requests", "answered", "failed", "seconds")
RATES = ("requests_per_s", "output_tokens_per_s", "total_tokens_per_s", "programs_per_s")
TIMES = {
    "ttft": "first token, ms",
    "tpot": "per output token, ms",
    "itl": "between pieces, ms",
    "latency": "whole answer, ms",
}
WIDTH = 26


def text(result: BenchResult) -> str:
    """One block a server, then ratios, then notes."""
    servers = [server["name"] for server in result.config["servers"]]
    lines = [f"{result.config['loop']}, {result.config['requests']} requests, n = {result.n}"]
    for name in servers:
        prefix = f"{name}/" if len(servers) > 1 else ""
        own = {k.removeprefix(prefix): v for k, v in result.figures.items() if k.startswith(prefix)}
        ends = {k.removeprefix(prefix): v for k, v in result.spread.items() if k.startswith(prefix)}
        lines += ["", name, *_server(own, ends)]
    lines += _ratios(result)
    optimum = result.figures["cached_frac_optimum"]
    lines += ["", f"the best prefix cache, empty at first, would have {optimum:.1%} of the prompts"]
    return "\n".join(lines + [f"note: {note}" for note in result.notes])


# -- internals ---------------------------------------------------------------


def _server(own: Mapping[str, float], ends: Mapping[str, tuple[float, float]]) -> list[str]:
    if "seconds" not in own:
        return ["  nothing was measured"]
    counts = ", ".join(f"{own[name]:g} {name}" for name in COUNTS[:3])
    lines = [f"  {counts} in {own['seconds']:.1f} s"]
    lines += [_row(name, own[name], ends.get(name)) for name in RATES if name in own]
    if "goodput_per_s" in own:
        lines.append(_row("goodput_per_s", own["goodput_per_s"], ends.get("goodput_per_s")))
        lines.append(f"  {'within the limits':{WIDTH}}{own['good_frac']:>10.1%}")
    lines.append(f"  {'cached of the prompts':{WIDTH}}{own['cached_frac']:>10.1%}")
    lines.append("  " + " " * WIDTH + "".join(f"{part:>10}" for part in PARTS))
    for name, title in TIMES.items():
        values = [own.get(f"{name}_{part}_s") for part in PARTS]
        if values[0] is not None:
            cells = "".join(f"{1000 * value:>10.1f}" for value in values if value is not None)
            lines.append(f"  {title:{WIDTH}}{cells}")
    return lines + _errors(own) + _tenants(own)


def _row(name: str, value: float, ends: tuple[float, float] | None) -> str:
    spread = f"   {ends[0]:.4g} to {ends[1]:.4g}" if ends and ends[0] != ends[1] else ""
    return f"  {name:{WIDTH}}{value:>10.2f}{spread}"


def _errors(own: Mapping[str, float]) -> list[str]:
    kinds = {k.removeprefix("errors/"): v for k, v in own.items() if k.startswith("errors/")}
    return [f"  failed: {kind:{WIDTH - 8}}{number:>10g}" for kind, number in kinds.items()]


def _tenants(own: Mapping[str, float]) -> list[str]:
    names = list(dict.fromkeys(k.split("/")[1] for k in own if k.startswith("tenant/")))
    if not names:
        return []
    head = f"  {'tenant':{WIDTH}}{'requests':>10}{'tokens/s':>10}{'ttft p50':>10}{'ttft p95':>10}"
    lines = [head]
    for name in names:
        one = {k.split("/", 2)[2]: v for k, v in own.items() if k.startswith(f"tenant/{name}/")}
        row = f"  {name:{WIDTH}}{one['requests']:>10g}{one['total_tokens_per_s']:>10.1f}"
        for part in ("ttft_p50_s", "ttft_p95_s"):
            row += f"{1000 * one[part]:>10.1f}" if part in one else f"{'-':>10}"
        lines.append(row)
    return lines


def _ratios(result: BenchResult) -> list[str]:
    lines: list[str] = []
    for key, value in result.figures.items():
        if not key.startswith("ratio/"):
            continue
        _, first, other, name = key.split("/", 3)
        ends = result.spread.get(key)
        around = f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else "no interval for n = 1"
        word = "  within the noise" if ends and ends[0] <= 1 <= ends[1] else ""
        lines.append(f"  {f'{first} / {other}':{WIDTH}}{name:22}{value:>8.2f}   {around}{word}")
    return ["", "ratios, 95 % interval", *lines] if lines else []
