"""`evolute export`: what was trained as one Hugging Face directory, the adapter merged in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evolute.cli.options import Json, emit

if TYPE_CHECKING:
    from evolute.models import LoraWeights

app = typer.Typer(add_completion=False)


@app.command()
def export(
    source: Annotated[str, typer.Argument(help="a run, its directory, or a PEFT directory")],
    out: Annotated[Path, typer.Option(help="a new or empty directory")],
    model: Annotated[
        str | None, typer.Option(help="the base; default: the one that the adapter names")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16")] = "float32",
    json: Json = False,
) -> None:
    """Write weights, tokenizer and configuration that transformers and Evolute load."""
    from evolute.models import export_model, load_model

    base, adapter = _trained(source)
    directory = export_model(load_model(model or base), out, adapter, dtype=dtype)
    if json:
        emit({"directory": str(directory), "base": model or base, "merged": adapter is not None})
    else:
        print(directory)


def _trained(source: str) -> tuple[str, LoraWeights | None]:
    """The base model with the adapter to merge, or a whole model without one."""
    import json

    from evolute.models import load_peft
    from evolute.types import ConfigError

    for directory in (Path(source), Path("runs") / source):
        if (directory / "model").is_dir():  # all weights were trained
            return str(directory / "model"), None
        for place in (directory / "adapter", directory):
            if (place / "adapter_config.json").is_file():
                values: dict[str, Any] = json.loads((place / "adapter_config.json").read_text())
                return str(values.get("base_model_name_or_path") or ""), load_peft(place)
    raise ConfigError(
        f"{source!r} holds nothing that was trained; name a run with an adapter/ or model/ "
        "directory, or a PEFT directory with an adapter_config.json."
    )
