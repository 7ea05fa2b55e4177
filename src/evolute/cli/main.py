"""The command line: `evolute VERB`. Results on stdout, progress and logs on stderr.

Each verb is a file of its own, loaded when it is called, so that `--help` is quick.
Exit codes: 0 done, 1 failed, 2 usage, 130 interrupted.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from evolute.cli.faults import exit_by

VERBS = {  # verb -> the line that --help shows
    "loop": "the main job: serve, measure, roll out, train, publish, tune, report",
    "serve": "an OpenAI-compatible HTTP server",
    "generate": "complete one prompt",
    "chat": "a conversation in the terminal",
    "train": "a training run: `train rl RECIPE.toml`",
    "agents": "a multi-turn agent on a task: `agents run AGENT.toml`",
    "eval": "accuracy on a task, with a confidence interval",
    "run": "a program written in evolute.lang",
    "thoughts": "what a thought buffer remembers",
    "demonstrations": "traces of a teacher: sample, verify, perturb",
    "simulate": "dispatcher or training runs on a virtual clock: `simulate FILE.toml`",
    "tune": "the system loop on one part: `tune engine`",
    "bench": "measure: serving, replay, training, the load generator",
    "export": "a trained run as a Hugging Face directory",
    "watch": "a training run in the browser: curves, and every rollout to read",
    "trace": "a timeline of a run",
    "track": "a run's figures in TensorBoard, Weights & Biases or MLflow",
    "doctor": "what this machine can do, and what is missing",
}


class _Verbs(TyperGroup):
    """Looks a verb's file up only when the verb is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, name: str) -> Any:
        if name not in VERBS:
            return None
        if len(sys.argv) == 1 or sys.argv[1] in ("-h", "--help"):  # the list needs a line each
            return TyperCommand(name, help=VERBS[name], short_help=VERBS[name])
        module: Any = importlib.import_module(f"evolute.cli.{name}")
        return typer.main.get_command(module.app)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        from evolute.types.settings import nearest

        if args and not args[0].startswith("-") and args[0] not in VERBS:
            ctx.fail(f"no verb {args[0]!r}. {nearest(args[0], VERBS)}")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Verbs,
    help="Serve language models, train agents on them, and let them tune the system they run on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root() -> None:
    """Evolute."""


def main() -> None:
    """Entry point."""
    exit_by(app)


if __name__ == "__main__":
    main()
