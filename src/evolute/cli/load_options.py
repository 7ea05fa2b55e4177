"""The options of `evolute bench serving` that put load on a server, and what they mean together."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evolute.types import ConfigError

if TYPE_CHECKING:
    from evolute.bench.load import Target

NAMED = re.compile(r"([\w.-]+)=(https?://.*)")

Http = Annotated[
    bool, typer.Option("--http", help="serving: start our own server and measure it over HTTP")
]
Url = Annotated[
    list[str] | None,
    typer.Option(help="[NAME=]http://HOST:PORT of an OpenAI-compatible server; several take turns"),
]
ApiKey = Annotated[
    list[str] | None, typer.Option(help="bearer key; several: tenants get them in turn")
]
Adapter = Annotated[
    list[str] | None,
    typer.Option(
        help="a name for the workload's adapters, which get them in turn; NAME=DIRECTORY with "
        "--http; repeatable"
    ),
]
Concurrency = Annotated[int | None, typer.Option(help="closed loop: so many requests in flight")]
Rate = Annotated[float | None, typer.Option(help="open loop: requests a second, at random moments")]
Cv = Annotated[float, typer.Option(help="of the gaps of --rate; 1: Poisson, above: bursts")]
Speed = Annotated[float, typer.Option(help="plays recorded moments so many times as fast")]
Requests = Annotated[int | None, typer.Option(help="so many; a small workload comes again")]
Seed = Annotated[int, typer.Option(help="of made workloads and of --rate")]
Scale = Annotated[float, typer.Option(help="shrinks a made workload's requests and tokens")]
VocabSize = Annotated[
    int | None, typer.Option(help="ids are below it; default: our model's, 32000 for --url alone")
]
Endpoint = Annotated[str, typer.Option(help="completions or chat")]
Prompts = Annotated[str | None, typer.Option(help="ids or text; default: text for chat, else ids")]
Stream = Annotated[bool, typer.Option(help="without: no time to first token")]
IgnoreEos = Annotated[bool, typer.Option(help="ask for all tokens; not every server knows it")]
Slo = Annotated[float | None, typer.Option(help="limit for goodput, in milliseconds")]
Warmup = Annotated[int, typer.Option(help="requests before the first round, not counted")]
TimeoutS = Annotated[float, typer.Option(help="for one request")]
Out = Annotated[
    Path | None, typer.Option(help="save the result and every request's record as JSON")
]
Plot = Annotated[Path | None, typer.Option(help="save curves as an HTML page")]

USUAL: dict[str, Any] = {
    "http": False, "url": None, "api_key": None, "adapter": None, "concurrency": None,
    "rate": None, "cv": 1.0, "speed": 1.0, "requests": None, "seed": 0, "scale": 1.0,
    "vocab_size": None, "endpoint": "completions", "prompts": None, "stream": True,
    "ignore_eos": True, "slo_ttft_ms": None, "slo_tpot_ms": None, "slo_latency_ms": None,
    "warmup": 1, "timeout_s": 600.0, "out": None, "plot": None,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Load:
    """What was given on the command line, by option; the rest is USUAL."""

    values: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        return self.values[name]

    @property
    def is_wanted(self) -> bool:
        return bool(self.values["http"] or self.values["url"])

    def refuse_unused(self, bench: str, besides: tuple[str, ...] = ()) -> None:
        """Raises ConfigError for an option that only a load test reads, `besides` apart."""
        for name, usual in USUAL.items():
            if self.values[name] != usual and name not in besides:
                option = "--" + name.replace("_", "-")
                option = option if usual is not True else f"--no-{option[2:]}"
                raise ConfigError(
                    f"{option} puts load on a server, which bench {bench} does not do; write "
                    "`bench serving` with --http (our own) or --url, or drop it."
                )

    def target(self, name: str, url: str, model: str) -> Target:
        from evolute.bench.load import Target

        prompts: Any = self.prompts or ("text" if self.endpoint == "chat" else "ids")
        for option, value, allowed in (
            ("endpoint", self.endpoint, ("completions", "chat")),
            ("prompts", prompts, ("ids", "text")),
        ):
            if value not in allowed:
                raise ConfigError(f"--{option} is {value!r}; it is {' or '.join(allowed)}.")
        return Target(
            name,
            url,
            model,
            api_keys=tuple(self.api_key or ()),
            endpoint=self.endpoint,
            prompts=prompts,
            is_streamed=self.stream,
            ignore_eos=self.ignore_eos,
            adapters=tuple(name.partition("=")[0] for name in self.adapter or ()),
        )

    def check_own(self) -> None:
        """Raises ConfigError for what our own server, which we start, would not know."""
        if self.api_key and not self.url:
            raise ConfigError("--api-key is for --url; our own server is started without keys.")
        for adapter in self.adapter or ():
            if "=" not in adapter:
                raise ConfigError(f"--adapter {adapter!r} has no '='; with --http write NAME=DIR.")

    def urls(self) -> list[tuple[str, str]]:
        """(name, url) of each --url; without a name its host and port."""
        named = [NAMED.fullmatch(one) for one in self.url or ()]
        return [
            (match[1], match[2]) if match else (one.partition("://")[2].rstrip("/") or one, one)
            for match, one in zip(named, self.url or ())
        ]


def seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
