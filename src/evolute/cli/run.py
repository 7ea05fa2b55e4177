"""`evolute run`: a program written in evolute.lang."""

from __future__ import annotations

import os
import runpy
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evolute.cli.options import Model, Set, say, settings

if TYPE_CHECKING:
    from evolute.lang import Account

app = typer.Typer(add_completion=False)


@app.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
def run(
    program: Annotated[Path, typer.Argument(help="a Python file")],
    arguments: Annotated[list[str] | None, typer.Argument(help="its sys.argv[1:]")] = None,
    model: Model = "smollm2-135m",
    url: Annotated[
        str | None, typer.Option(help="of a server that is running, instead of --model")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="for --url; default: $EVOLUTE_API_KEY")
    ] = None,
    set_: Set = None,
) -> None:
    """Run a file as __main__ with the default backend set. What it cost goes to stderr.

    Options of this command stand before the program, the program's own behind it.
    """
    from evolute.types import ConfigError

    if not program.is_file():
        raise ConfigError(f"there is no file {program}; give the path of a Python program.")
    with ExitStack() as stack:
        account = _begin(stack, model, url, api_key, set_)
        sys.argv = [str(program), *(arguments or [])]
        sys.path.insert(0, str(program.resolve().parent))  # its neighbours, as `python FILE` has it
        try:
            runpy.run_path(str(program), run_name="__main__")
        finally:
            spent = account.spent
            say(
                f"{spent.calls} calls, {spent.prompt_tokens} prompt tokens "
                f"({spent.cached_tokens} cached), {spent.output_tokens} output tokens"
            )


# -- internals ---------------------------------------------------------------


def _begin(
    stack: ExitStack, model: str, url: str | None, api_key: str | None, set_: list[str] | None
) -> Account:
    """Sets the default backend and the account of all runs that name none."""
    from evolute.lang import Account, RuntimeEndpoint, global_config
    from evolute.types import ConfigError

    if url is not None:
        if set_:
            raise ConfigError("--set is for an engine of its own; a server has its settings.")
        key = api_key or os.environ.get("EVOLUTE_API_KEY")
        global_config.default_backend = RuntimeEndpoint(url, key)
    else:
        from evolute.engine import Engine, EngineConfig

        engine = stack.enter_context(Engine(model, settings(EngineConfig, [], set_)))
        global_config.default_backend = engine
    global_config.default_account = Account(name="run")
    stack.callback(global_config.reset)
    return global_config.default_account
