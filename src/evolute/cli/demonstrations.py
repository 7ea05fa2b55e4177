"""`evolute demonstrations`: from a teacher's answers to rows that `evolute train sft` reads.

sample TASK -> raw.jsonl      verify TASK raw.jsonl -> traces.jsonl      perturb -> NAME.jsonl
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from evolute.cli.options import Json, emit, say

if TYPE_CHECKING:
    from evolute.lang.account import Budget
    from evolute.lang.backend import TextBackend
    from evolute.reasoning.demonstrations.sample import SampleReport, SampleSettings
    from evolute.reasoning.demonstrations.trace import Trace
    from evolute.types import Problem, Task

app = typer.Typer(no_args_is_help=True, add_completion=False)
Task_ = Annotated[str, typer.Argument(help="e.g. addition-2 or chain-with-traps?steps=6-10")]
Out = Annotated[Path, typer.Option(help="JSON lines")]


@app.callback()
def root() -> None:
    """Traces of a teacher: sample, verify, perturb."""


@app.command()
def sample(
    task: Task_,
    out: Out = Path("raw.jsonl"),
    model: Annotated[str | None, typer.Option(help="the teacher, run here")] = None,
    url: Annotated[
        str | None, typer.Option(help="the teacher's server, as URL or URL#MODEL")
    ] = None,
    scripted: Annotated[
        bool, typer.Option("--scripted", help="the program that solves chain-with-traps")
    ] = False,
    wrong: Annotated[float, typer.Option(help="share of wrong answers; with --scripted")] = 0.0,
    count: Annotated[int, typer.Option(help="problems")] = 128,
    samples: Annotated[int, typer.Option(help="answers to each problem")] = 1,
    split: str = "train",
    seed: int = 0,
    system: Annotated[
        str | None, typer.Option(help="default: think in one block, answer in another; '' for none")
    ] = None,
    temperature: float = 0.7,
    max_new_tokens: Annotated[int, typer.Option(help="0: the task's, and room for a thought")] = 0,
    budget_calls: Annotated[int | None, typer.Option(help="of the whole run")] = None,
    budget_tokens: Annotated[int | None, typer.Option(help="of the whole run")] = None,
    json: Json = False,
) -> None:
    """Ask a teacher. What stands in the file is not asked again: the same command goes on."""
    from evolute.lang.account import Budget
    from evolute.reasoning.demonstrations.sample import SampleSettings
    from evolute.reasoning.demonstrations.trace import SYSTEM

    said = SYSTEM if system is None else system
    wanted = SampleSettings(count, samples, split, seed, said, temperature, max_new_tokens)
    with ExitStack() as stack:
        teacher = _teacher(stack, model, url, wrong, is_scripted=scripted)
        report = _ask(task, teacher, out, wanted, Budget(budget_calls, budget_tokens))
    say(f"{out}: {report.num_made} answers made, {report.num_there} were there")
    if report.num_left:
        say(f"{report.num_left} are missing ({report.failures}); the same command asks for them.")
    if json:
        values = {"made": report.num_made, "there": report.num_there, "left": report.num_left}
        emit({"out": str(out), **values, "failures": report.failures, "spent": report.spent})


@app.command()
def verify(
    task: Task_,
    raw: Annotated[Path, typer.Argument(help="of `sample`")] = Path("raw.jsonl"),
    out: Annotated[
        Path, typer.Option(help="right traces; NAME.wrong.jsonl and NAME.rejected.jsonl beside it")
    ] = Path("traces.jsonl"),
    steps: Annotated[
        str, typer.Option(help="a step ends at 'breaks' of the flow, or is one of 'paragraphs'")
    ] = "breaks",
    heldout: Annotated[
        int, typer.Option(help="held-out problems that no trace may overlap with")
    ] = 512,
    per_problem: Annotated[int, typer.Option(help="traces of a problem at most; 0: all")] = 0,
    keep_system: Annotated[
        bool, typer.Option(help="leave the teacher's system message in the prompts")
    ] = True,
    json: Json = False,
) -> None:
    """Keep what is usable, right, new, and not part of an evaluation."""
    from evolute.envs import make_task
    from evolute.reasoning.demonstrations.curate import at_most, decontaminate, dedupe
    from evolute.reasoning.demonstrations.sample import problems_of, read_raw
    from evolute.reasoning.demonstrations.verify import sort_raw

    world = make_task(task)
    rows, problems = read_raw(raw), problems_of(world, raw)
    found = asyncio.run(sort_raw(world, rows, problems, by=_steps(steps)))
    new = dedupe(found.right)
    clean = decontaminate(new, _questions(world, heldout))
    kept = at_most(clean.kept, per_problem) if per_problem else clean.kept
    traces = [_prompted(trace, keep_system=keep_system) for trace in kept]
    wrong = [_prompted(trace, keep_system=keep_system) for trace in found.wrong]
    _write_traces(out, traces)
    _write_traces(out.with_suffix(".wrong.jsonl"), wrong)
    rejected = [{"why": why, **row} for row, why in found.rejected]
    _write(out.with_suffix(".rejected.jsonl"), rejected)
    counts = {
        "answers": len(rows),
        "right": len(found.right),
        "wrong": len(found.wrong),
        "rejected": len(found.rejected),
        "duplicates": len(found.right) - len(new),
        "overlapping": len(clean.overlapping),
        "kept": len(kept),
    }
    say(", ".join(f"{name} {count}" for name, count in counts.items()))
    if json:
        emit({"out": str(out), **counts})


@app.command()
def perturb(
    traces: Annotated[Path, typer.Argument(help="of `verify`")] = Path("traces.jsonl"),
    out: Out = Path("rows.jsonl"),
    kind: Annotated[
        str,
        typer.Option(
            help="none, shuffle, delete, insert, corrupt_digits, drop_keywords or wrong_answers"
        ),
    ] = "none",
    share: Annotated[float, typer.Option(help="of the steps, digits or sentences")] = 1.0,
    seed: int = 0,
    pool: Annotated[
        Path | None, typer.Option(help="traces for insert and wrong_answers; default: TRACES")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", "-s", help="within=solution, pad=true, domain=other, within_role=true"
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Write training rows, with one kind of change to every trace."""
    from evolute.reasoning.demonstrations.perturb import perturb as change
    from evolute.reasoning.demonstrations.trace import training_row
    from evolute.types import ConfigError

    found = _read_traces(traces)
    if kind == "none" and (set_ or pool):
        raise ConfigError("--set and --pool do nothing with --kind none; drop them.")
    if kind == "wrong_answers" and pool is None:
        raise ConfigError("--kind wrong_answers needs --pool, e.g. traces.wrong.jsonl.")
    if kind != "none":
        others = _read_traces(pool) if pool else found
        found = change(found, kind, share, seed, others, **_options(set_ or []))
    _write(out, map(training_row, found))
    num_steps = sum(len(trace.steps) for trace in found) / max(len(found), 1)
    say(f"{out}: {len(found)} rows, {num_steps:.1f} steps each")
    if json:
        emit({"out": str(out), "rows": len(found), "steps": num_steps, "kind": kind})


# -- internals ---------------------------------------------------------------


def _teacher(
    stack: ExitStack, model: str | None, url: str | None, wrong: float, *, is_scripted: bool
) -> TextBackend:
    from evolute.cli.methods import endpoint
    from evolute.engine import Engine
    from evolute.lang.endpoints import as_text_backend
    from evolute.reasoning.demonstrations.teacher import ChainTeacher
    from evolute.types import ConfigError

    if sum((model is not None, url is not None, is_scripted)) != 1:
        raise ConfigError("name one teacher: --model, --url or --scripted.")
    if wrong and not is_scripted:
        raise ConfigError("--wrong is the scripted teacher's; drop it, or add --scripted.")
    if is_scripted:
        return ChainTeacher(wrong)
    if url is not None:
        place, _, name = url.partition("#")
        return endpoint(place, name)
    return as_text_backend(stack.enter_context(Engine(model or "")))


def _ask(
    task: str, teacher: TextBackend, out: Path, wanted: SampleSettings, budget: Budget
) -> SampleReport:
    from evolute.envs import make_task
    from evolute.lang.account import Account
    from evolute.reasoning.demonstrations.sample import sample as ask
    from evolute.telemetry import progress

    world, account = make_task(task), Account(budget)
    with progress("sample", wanted.count * wanted.samples) as bar:
        return asyncio.run(
            ask(world, teacher, out, wanted, account=account, on_progress=bar.advance)
        )


def _questions(world: Task, count: int) -> list[str]:
    problems = _as_many(world, count)
    return ["\n".join(m["content"] for m in p.messages if m["role"] != "system") for p in problems]


def _as_many(world: Task, count: int) -> list[Problem]:
    """Held-out problems, `count` of them, or nearly all of a small family."""
    from evolute.types import ConfigError

    while count:
        try:
            return world.problems("heldout", count)
        except ConfigError:
            count = count * 3 // 4
    return []


def _prompted(trace: Trace, *, keep_system: bool) -> Trace:
    import dataclasses

    if keep_system:
        return trace
    kept = tuple(m for m in trace.prompt if m["role"] != "system")
    return dataclasses.replace(trace, prompt=kept)


def _steps(name: str) -> Any:
    from evolute.reasoning.demonstrations.trace import StepsBy
    from evolute.types import ConfigError
    from evolute.types.settings import nearest

    if name not in get_args(StepsBy):
        raise ConfigError(f"--steps is {name!r}. {nearest(name, get_args(StepsBy))}")
    return name


def _options(words: list[str]) -> dict[str, Any]:
    """key=value of a perturbation; true and false are truths."""
    from evolute.types import ConfigError

    found: dict[str, Any] = {}
    for word in words:
        key, separator, value = word.partition("=")
        if not separator:
            raise ConfigError(f"--set {word!r} has no '='; write key=value.")
        found[key] = {"true": True, "false": False}.get(value, value)
    return found


def _read_traces(path: Path) -> list[Trace]:
    from evolute.reasoning.demonstrations.trace import read_row
    from evolute.telemetry import read_records
    from evolute.types import ConfigError

    try:
        found = [read_row(row) for row in read_records(path)]
    except ValueError as error:
        raise ConfigError(f"{path}: {error}; give a file of `demonstrations verify`.") from error
    if not found:
        raise ConfigError(f"{path} has no traces; give a file of `demonstrations verify`.")
    return found


def _write_traces(path: Path, traces: list[Trace]) -> None:
    from evolute.reasoning.demonstrations.trace import row_of

    _write(path, map(row_of, traces))


def _write(path: Path, rows: Any) -> None:
    """The whole file or the one that was there."""
    import json
    import os

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
