"""`evolute generate`: complete one prompt."""

from __future__ import annotations

from typing import Annotated

import typer

from evolute.cli.options import Json, Model, Set, emit, settings

app = typer.Typer(add_completion=False)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="the text to complete, or the user's message")],
    model: Model = "smollm2-135m",
    chat: Annotated[bool, typer.Option(help="wrap the prompt in the chat template")] = False,
    temperature: Annotated[float, typer.Option(help="0 is greedy")] = 1.0,
    max_new_tokens: int = 128,
    seed: Annotated[int | None, typer.Option(help="repeatable sampling")] = None,
    adapter: Annotated[str | None, typer.Option(help="a PEFT directory")] = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Complete one prompt and print the text."""
    from evolute.engine import Engine, EngineConfig
    from evolute.types import Message, SamplingParams

    sampling = SamplingParams(temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)
    with Engine(model, settings(EngineConfig, [], set_)) as engine:
        if adapter:
            engine.load_adapter("adapter", adapter)
        text: list[Message] = [{"role": "user", "content": prompt}]
        ids = (
            engine.tokenizer.chat(text)
            if chat
            else engine.tokenizer.encode(prompt, add_special_tokens=True)
        )
        (output,) = engine.generate([ids], sampling, adapter="adapter" if adapter else None)
    if json:
        emit(
            {
                "text": output.text,
                "token_ids": output.token_ids,
                "finish_reason": output.finish_reason,
                "prompt_tokens": output.prompt_tokens,
            }
        )
    else:
        print(output.text)
