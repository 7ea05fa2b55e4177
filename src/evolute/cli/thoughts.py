"""`evolute thoughts`: what a thought buffer remembers, and changes to it by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evolute.cli.options import Json, Model, Set, emit, say

if TYPE_CHECKING:
    from evolute.reasoning.thought_buffer import Buffer, Embedder, ThoughtTemplate

app = typer.Typer(no_args_is_help=True, add_completion=False)

BufferFile = Annotated[Path, typer.Option("--buffer", help="the SQLite file")]
Id = Annotated[str, typer.Argument(help="an id, or its beginning")]
EmbedUrl = Annotated[
    str, typer.Option(help="an OpenAI-compatible server for embeddings; default: MiniLM here")
]
EmbedModel = Annotated[str, typer.Option(help="the model's name at --embed-url")]


@app.callback()
def root() -> None:
    """What a thought buffer remembers. The key for --embed-url is read from OPENAI_API_KEY."""


@app.command(name="list")
def list_(
    buffer: BufferFile,
    all_: Annotated[bool, typer.Option("--all", help="retired ones too")] = False,
    json: Json = False,
) -> None:
    """One line a template: id, kind, outcomes, description."""
    with _opened(buffer) as opened:
        templates = opened.all(retired=all_)
        live = {template.id for template in opened.all()}
    if json:
        emit({"templates": [_line(t, t.id not in live) for t in templates]})
        return
    for template in templates:
        mark = "" if template.id in live else " (retired)"
        outcomes = f"{template.stats.success}+ {template.stats.failure}-"
        description = " ".join(template.description.split())[:70]
        print(f"{template.id}  {template.kind:9}  {outcomes:9}  {description}{mark}")


@app.command()
def show(buffer: BufferFile, id: Id, json: Json = False) -> None:
    """One template with its slots and body."""
    with _opened(buffer) as opened:
        template = opened.get(id)
        retired = opened.is_retired(template.id)
    if json:
        emit(_line(template, retired) | {"body": template.body, "slots": _slots(template)})
        return
    state = " (retired)" if retired else ""
    print(f"{template.id}{state}: {template.kind}, {template.category}\n{template.description}\n")
    for slot in template.slots:
        print(f"{slot.name}: {slot.type} = {slot.how}")
    print(template.body)


@app.command()
def edit(
    buffer: BufferFile,
    id: Id,
    description: Annotated[str | None, typer.Option(help="new text; it is embedded anew")] = None,
    category: Annotated[str | None, typer.Option()] = None,
    body: Annotated[Path | None, typer.Option(help="a file with the new body")] = None,
    embed_url: EmbedUrl = "",
    embed_model: EmbedModel = "",
) -> None:
    """Change a template; its id and outcomes stay."""
    from evolute.types import ConfigError

    changes = {"description": description, "category": category}
    if body is not None:
        changes["body"] = _text(body)
    given = {name: value for name, value in changes.items() if value is not None}
    if not given:
        raise ConfigError("nothing to edit; give --description, --category or --body.")
    embedder = _embedder(embed_url, embed_model) if description is not None else None
    with _opened(buffer, embedder) as opened:
        _wait(opened.edit(id, **given))


@app.command()
def retire(
    buffer: BufferFile,
    id: Id,
    undo: Annotated[bool, typer.Option(help="offer it again")] = False,
) -> None:
    """Offer a template no more; it stays in the file."""
    with _opened(buffer) as opened:
        (opened.restore if undo else opened.retire)(id)


@app.command()
def export(buffer: BufferFile, file: Annotated[Path, typer.Argument()]) -> None:
    """Live templates as JSON lines, without vectors."""
    with _opened(buffer) as opened:
        say(f"{opened.export(file)} thought templates in {file}")


@app.command(name="import")
def import_(
    buffer: BufferFile,
    file: Annotated[Path, typer.Argument(help="what `export` wrote")],
    embed_url: EmbedUrl = "",
    embed_model: EmbedModel = "",
    json: Json = False,
) -> None:
    """Add the templates of an export. The buffer is made when it does not exist."""
    with _opened(buffer, _embedder(embed_url, embed_model), new=True) as opened:
        added, known = _wait(opened.load(file))
    say(f"{added} added, {known} known already")
    if json:
        emit({"added": added, "known": known})


@app.command()
def learn(
    task: Annotated[str, typer.Argument(help="its train split is worked on, and its gold counts")],
    buffer: BufferFile,
    model: Model = "smollm2-135m",
    count: Annotated[int, typer.Option(help="problems")] = 32,
    role: Annotated[
        list[str] | None,
        typer.Option(help="PART=URL#MODEL; solver=... is who writes the solutions"),
    ] = None,
    unsafe_no_sandbox: Annotated[bool, typer.Option(help="run programs unprotected")] = False,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Solve problems of the train split and keep what solved them. --set has the method's keys."""
    from evolute.cli.thoughts_learn import learn_from

    figures = learn_from(
        task, buffer, model, count, role or [], set_ or [], allow_unsafe=unsafe_no_sandbox
    )
    say(
        f"{figures['right']} of {figures['count']} right, {figures['calls']} calls, "
        f"{figures['templates']} thought templates in {buffer}"
    )
    if json:
        emit(figures)


@app.command()
def rebuild(buffer: BufferFile, embed_url: EmbedUrl = "", embed_model: EmbedModel = "") -> None:
    """Embed all descriptions anew, with this embedding model."""
    embedder = _embedder(embed_url, embed_model)
    with _opened(buffer, embedder, rebuilding=True) as opened:
        say(f"{_wait(opened.rebuild())} thought templates embedded by {embedder.name}")


# -- internals ---------------------------------------------------------------


def _opened(
    path: Path, embedder: Embedder | None = None, *, new: bool = False, rebuilding: bool = False
) -> Buffer:
    from evolute.reasoning.thought_buffer import Buffer
    from evolute.types import ConfigError

    if not new and not path.exists():
        raise ConfigError(f"thought buffer {path} does not exist; name another file.")
    return Buffer(path, embedder, rebuilding=rebuilding)


def _embedder(url: str, model: str) -> Embedder:
    from evolute.reasoning.thought_buffer import ThoughtConfig
    from evolute.reasoning.thought_buffer.method import embedder_of

    config = ThoughtConfig(embed_url=url, embed_model=model)
    return embedder_of(config)


def _wait(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


def _text(path: Path) -> str:
    from evolute.types import ConfigError

    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def _line(template: ThoughtTemplate, retired: bool) -> dict[str, Any]:
    return {
        "id": template.id,
        "kind": template.kind,
        "category": template.category,
        "description": template.description,
        "success": template.stats.success,
        "failure": template.stats.failure,
        "retired": retired,
    }


def _slots(template: ThoughtTemplate) -> list[dict[str, str]]:
    return [{"name": s.name, "type": s.type, "how": s.how} for s in template.slots]
