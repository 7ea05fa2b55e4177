"""Buffer of Thoughts, measured: retrieval, passes with a teacher, methods with a real model.

    calibration/...          MiniLM over fourteen known and six strange families of problems
    taught/FAMILY/PASS/...   a teacher that writes right programs, an empty buffer, two passes
    METHOD/FAMILY/...        `model` with each method on held-out problems
    poisoned/FAMILY/...      the taught buffer with a wrong twin of each template

`taught` says what the mechanism does with a model that can program, whatever the model. With a real
one `buffer_taught` starts from what the teacher's build split left, `buffer_skeletons` from seeds
with gaps, `buffer_programs` from whole programs: that one needs no model and is the ceiling.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evolute.bench.result import BenchResult
from evolute.bench.thoughts.calibration import calibrate
from evolute.bench.thoughts.paraphrases import paraphrases
from evolute.bench.thoughts.passes import one_pass
from evolute.bench.thoughts.teacher import Teacher
from evolute.bench.told import tell
from evolute.engine import Engine, EngineConfig
from evolute.envs import make_task
from evolute.envs.sandbox.contract import Sandbox, SandboxLimits
from evolute.lang.endpoints import as_text_backend
from evolute.models import LoadedModel
from evolute.reasoning.baselines import (
    ChainOfThought,
    Direct,
    Majority,
    Pal,
    PalConfig,
    PlainConfig,
    TreeConfig,
    TreeOfThoughts,
)
from evolute.reasoning.baselines.plain import THINK
from evolute.reasoning.baselines.votes import by_final_answer
from evolute.reasoning.method import Method, Roles
from evolute.reasoning.thought_buffer import (
    Buffer,
    Embedder,
    MiniLM,
    Stats,
    ThoughtBuffer,
    ThoughtConfig,
)
from evolute.reasoning.thought_buffer.method import by_world
from evolute.types import Task

TASKS = {
    "game-of-24": "game-of-24",
    "word-sorting": "reasoning-gym:word_sorting?max_words=6",
    "arithmetic": "reasoning-gym:chain_sum",
    "dates": "dates",
    "checkmate-in-one": "checkmate-in-one",
    "shapes": "shapes",
    "table-questions": "table-questions",
}
CHECKED = ("game-of-24", "word-sorting", "checkmate-in-one")  # need no gold answer
LIMITS = SandboxLimits(seconds=10.0, cpu_seconds=10.0)
MAX_NEW = 128
MakeSandbox = Callable[[], Sandbox]


def run(
    quick: bool,
    *,
    model: str | LoadedModel = "smollm2-135m",
    config: EngineConfig | None = None,
    repeats: int = 1,
) -> BenchResult:
    """One pass of everything; accuracies are of few problems, see `n` and the notes."""
    from evolute.envs.sandbox import make_sandbox

    count = 4 if quick else 24
    sandbox = make_sandbox()
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        embedder = MiniLM()
        figures = asyncio.run(calibration(embedder))
        figures |= asyncio.run(taught(place, embedder, lambda: sandbox, count))
        with Engine(model, config) as engine:
            roles = Roles(as_text_backend(engine))
            figures |= asyncio.run(compared(roles, place, embedder, lambda: sandbox, count))
        figures |= asyncio.run(poisoned(place, embedder, lambda: sandbox, count))
    name = model if isinstance(model, str) else model.name
    settings = {"model": name, "tasks": TASKS, "limits": asdict(LIMITS)}
    notes = (
        f"{count} held-out problems a family: 95 % intervals are about +-{98 / count**0.5:.0f} "
        "points in the middle",
        "buffer_programs is whole programs with slots by rules: no model is asked, its accuracy is "
        "the programs' ceiling",
    )
    spread = {key: (value, value) for key, value in figures.items()}
    return BenchResult("thoughts", settings, figures, count, spread, notes=notes)


async def calibration(embedder: Embedder, seeds: tuple[int, ...] = (0, 1, 2)) -> dict[str, float]:
    """Means over seeds of the texts; the threshold is the greatest of them."""
    found = [await calibrate(embedder, paraphrases(seed)) for seed in seeds]
    figures = {"calibration/top1": sum(f.top1 for f in found) / len(found)}
    figures["calibration/use_above"] = max(f.use_above for f in found)
    for threshold in (0.4, 0.5, 0.6, 0.7, figures["calibration/use_above"]):
        errors = [f.at(threshold) for f in found]
        for k, kind in enumerate(("false_accept", "false_reject")):
            mean = sum(e[k] for e in errors) / len(errors)
            figures[f"calibration/{kind}_at_{threshold:.2f}"] = mean
    return figures


async def taught(
    place: Path,
    embedder: Embedder,
    sandbox: MakeSandbox,
    count: int,
    tasks: Mapping[str, str] = TASKS,
) -> dict[str, float]:
    """One buffer for all families, filled from their build splits; then two passes over fresh
    problems of each, and one with growth off and an empty buffer."""
    figures: dict[str, float] = {}
    teacher = Roles(Teacher())
    for growing in (True, False):
        path = place / f"taught-{growing}.db"
        for family, name in tasks.items():
            task = make_task(name)
            problems = task.problems("train", 2 * count)
            config = settings_of(path, grow=growing)
            with closing(_buffer(teacher, sandbox, config, embedder, task)) as method:
                for k, title in enumerate(("first", "second")):
                    found = await one_pass(method, task, problems[k * count : (k + 1) * count])
                    word = "taught" if growing else "not_growing"
                    figures |= found.figures(f"{word}/{family}/{title}")
                    tell(f"{word}, {family}, {title} pass: done")
                if growing:
                    figures[f"taught/{family}/templates"] = float(len(method.buffer.all()))
    return figures


async def poisoned(
    place: Path, embedder: Embedder, sandbox: MakeSandbox, count: int
) -> dict[str, float]:
    """The taught buffer with a wrong twin of each template of a family that checks itself: half of
    what is alike is wrong. No model is asked."""
    figures: dict[str, float] = {}
    path = place / "taught-True.db"
    with Buffer(path, embedder) as buffer:
        for template in buffer.all():
            wrong = "print('1 + 1')\n" + template.body
            await buffer.add(replace(template, body=wrong, stats=Stats(), id=""))
    for family in CHECKED:
        task = make_task(TASKS[family])
        problems = task.problems("heldout", count)
        config = settings_of(path, grow=False)
        with closing(ThoughtBuffer(Roles(Teacher()), sandbox, config, embedder=embedder)) as method:
            found = await one_pass(method, task, problems)
            figures |= found.figures(f"poisoned/{family}")
    with Buffer(path) as buffer:
        figures["poisoned/retired"] = float(len(buffer.all(retired=True)) - len(buffer.all()))
    return figures


async def compared(
    roles: Roles,
    place: Path,
    embedder: Embedder,
    sandbox: MakeSandbox,
    count: int,
    tasks: Mapping[str, str] = TASKS,
) -> dict[str, float]:
    """Each method on the same held-out problems of each family. The buffers do not grow here."""
    figures: dict[str, float] = {}
    for family, name in tasks.items():
        task = make_task(name)
        problems = task.problems("heldout", count)
        for title, method in _methods(roles, sandbox).items():
            found = await one_pass(method, task, problems, concurrency=8)
            figures |= found.figures(f"{title}/{family}")
            tell(f"{title}, {family}: {figures[f'{title}/{family}/accuracy']:.0%} right")
        for title, seeds in BUFFERS.items():
            path = place / f"{title}.db" if seeds != "taught" else place / "taught-True.db"
            own: Any = "none" if seeds == "taught" else seeds
            config = replace(settings_of(path), grow=False, seeds=own)
            with closing(ThoughtBuffer(roles, sandbox, config, embedder=embedder)) as method:
                found = await one_pass(method, task, problems)
                figures |= found.figures(f"{title}/{family}")
                tell(f"{title}, {family}: {figures[f'{title}/{family}/accuracy']:.0%} right")
    return figures | _means(figures, tasks)


BUFFERS = {
    "buffer_skeletons": "skeletons",
    "buffer_taught": "taught",
    "buffer_programs": "programs",
}


def settings_of(path: Path, *, grow: bool = True) -> ThoughtConfig:
    """What all buffers here share."""
    return ThoughtConfig(
        str(path), grow=grow, max_new_tokens=512, packages=("chess",), limits=LIMITS
    )


# -- internals ---------------------------------------------------------------


def _buffer(
    roles: Roles, sandbox: MakeSandbox, config: ThoughtConfig, embedder: Embedder, task: Task
) -> ThoughtBuffer:
    return ThoughtBuffer(roles, sandbox, config, embedder=embedder, verify=by_world(task))


def _methods(roles: Roles, sandbox: MakeSandbox) -> dict[str, Method]:
    plain = PlainConfig(MAX_NEW)
    majority = Majority(
        roles,
        samples=5,
        temperature=0.7,
        key=by_final_answer,
        max_new_tokens=MAX_NEW,
        instruction=THINK,
    )
    tree = TreeConfig(breadth=2, depth=2, proposals=3, votes=1, max_new_tokens=64)
    pal = PalConfig(attempts=2, max_new_tokens=256, packages=("chess",), limits=LIMITS)
    return {
        "direct": Direct(roles, plain),
        "cot": ChainOfThought(roles, plain),
        "majority": majority,
        "tree_of_thoughts": TreeOfThoughts(roles, tree),
        "pal": Pal(roles, sandbox, pal),
    }


def _means(figures: Mapping[str, float], tasks: Mapping[str, str]) -> dict[str, float]:
    """Over families, of each method."""
    found: dict[str, float] = {}
    for method in {name.split("/")[0] for name in figures}:
        for what in ("accuracy", "calls", "tokens"):
            values = [figures[f"{method}/{family}/{what}"] for family in tasks]
            found[f"mean/{method}/{what}"] = sum(values) / len(values)
    return found
