"""`evolute chat`: a conversation in the terminal."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from evolute.cli.options import Model, Set, say, settings
from evolute.types import Message

app = typer.Typer(add_completion=False)


@app.command()
def chat(
    model: Model = "smollm2-135m",
    system: Annotated[str | None, typer.Option(help="a system message")] = None,
    temperature: float = 0.7,
    max_new_tokens: int = 512,
    set_: Set = None,
) -> None:
    """Talk to the model; an empty line or Ctrl-D ends it."""
    from evolute.engine import Engine, EngineConfig

    with Engine(model, settings(EngineConfig, [], set_)) as engine:
        say(f"{engine.model_name}: an empty line ends the conversation.")
        messages: list[Message] = [{"role": "system", "content": system}] if system else []
        while text := _ask():
            messages.append({"role": "user", "content": text})
            reply = asyncio.run(_reply(engine, messages, temperature, max_new_tokens))
            messages.append({"role": "assistant", "content": reply})


def _ask() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""


async def _reply(engine, messages: list[Message], temperature: float, limit: int) -> str:  # type: ignore[no-untyped-def]
    from evolute.types import GenerateRequest, SamplingParams

    sampling = SamplingParams(temperature=temperature, max_new_tokens=limit)
    request = GenerateRequest(tuple(engine.tokenizer.chat(messages)), sampling)
    text = ""
    async for delta in engine.stream(request):
        print(delta.text, end="", flush=True)
        text += delta.text
    print()
    return text
