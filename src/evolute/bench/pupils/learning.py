"""One seed of learning in a world: a pupil is taught to act badly, then trained by its own rewards.

taught(folder, world, train, sizes, seed) -> Path        its directory, as `load_model` reads it
await learn(folder, model, train, on_step) -> Path       reinforcement, `evolute train rl`'s own way
await evaluated(folder, model, train, ...) -> right      held-out problems, by id
figures(before, after) -> {...}

Everything goes on where it was stopped: lessons and results by their files, runs by their
checkpoints.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from evolute.agents.run import AgentsConfig, run_agents
from evolute.bench.pupils.pupil import tool_pupil
from evolute.bench.pupils.teacher import lessons
from evolute.bench.pupils.world import TOLD_OF, World
from evolute.engine import Engine, EngineConfig
from evolute.envs import paired_difference, wilson
from evolute.envs.tools.registry import make_tool_task
from evolute.models import export_model, load_model
from evolute.models.tokenizer import ChatTokenizer
from evolute.train import Controller, StepReport, TrainConfig
from evolute.train.settings import OptimizerConfig
from evolute.train.sft import SftConfig, SftController, SftReport
from evolute.types import ConfigError, Rollout

ENGINE = EngineConfig(page_size=4, precision="float32", num_threads=1)


@dataclass(frozen=True, slots=True)
class Sizes:
    """The pupil and its lessons."""

    lessons: int = 3_000
    exercises: int = 9_000  # in worlds that have some; new ones teach more than the same again
    epochs: int = 1
    batch: int = 8
    lr: float = 2e-3
    width: int = 128
    num_layers: int = 3


def taught(
    folder: Path,
    world: World,
    train: TrainConfig,
    sizes: Sizes,
    seed: int,
    on_step: Callable[[SftReport], None] | None = None,
) -> Path:
    """An untrained model in `folder/untaught`, its lessons, and what it is after them. Raises
    ConfigError for a folder of a pupil that was taught otherwise, or has another vocabulary."""
    _claim(folder, world, train, sizes, seed)
    done = folder / "warm" / "model"
    if done.exists():
        return done
    model = tool_pupil(seed, world.phrases, sizes.width, sizes.num_layers)
    if not (folder / "untaught").exists():
        export_model(model, folder / "untaught")
    files = _examples(folder, world, train, sizes, model.tokenizer, seed)
    config = SftConfig(
        model=str(folder / "untaught"),
        data=tuple(map(str, files)),
        epochs=sizes.epochs,
        batch_size=sizes.batch,
        micro_batch_tokens=8192,
        method="full",
        optimizer=OptimizerConfig(lr=sizes.lr, warmup_steps=20, beta2=0.98),
        seed=seed,
        checkpoint_every=50,
    )
    run = SftController(config, folder / "warm", model)
    run.run(on_step)
    return run.save_result()


async def learn(
    folder: Path,
    model: Path,
    train: TrainConfig,
    on_step: Callable[[StepReport], None] | None = None,
) -> Path:
    """The trained model's directory."""
    done = folder / "model"
    if done.exists():
        return done
    if train.method != "full":
        raise ConfigError(f"method is {train.method!r}; a pupil is trained as a whole: 'full'.")
    loaded = load_model(str(model))
    with Engine(loaded, ENGINE) as engine:
        controller = Controller(replace(train, model=str(model)), folder, loaded, engine)
        await controller.run(on_step)
        return controller.save_result()


async def evaluated(
    folder: Path,
    model: Path,
    train: TrainConfig,
    count: int,
    *,
    turns: int,
    temperature: float = 1.0,
) -> tuple[dict[str, bool], dict[str, float]]:
    """Right or wrong by problem, and means of the agents' metrics. Held-out problems are the same
    whatever the seed of training was."""
    agent = replace(train.agent, max_turns=turns, temperature=temperature)
    config = AgentsConfig(train.task, str(model), count=count, agent=agent, dispatch=train.dispatch)
    task = make_tool_task(train.task)
    with Engine(load_model(str(model)), ENGINE) as engine:
        ran = await run_agents(config, task, engine, folder)
    _check(ran.rollouts)
    right = {r.problem_id: r.metrics["accuracy"] >= 1 for r in ran.rollouts}
    names = sorted({name for rollout in ran.rollouts for name in rollout.metrics})
    means = {n: sum(r.metrics.get(n, 0.0) for r in ran.rollouts) / count for n in names}
    return right, means


def figures(before: Mapping[str, bool], after: Mapping[str, bool]) -> dict[str, Any]:
    """Shares with Wilson's interval, and the paired gain with Newcombe's."""
    shares = {
        name: asdict(wilson(sum(right.values()), len(right)))
        for name, right in (("before", before), ("after", after))
    }
    return {**shares, "gain": asdict(paired_difference(before, after)), "n": len(after)}


# -- internals ---------------------------------------------------------------


def _claim(folder: Path, world: World, train: TrainConfig, sizes: Sizes, seed: int) -> None:
    """Lessons are token ids: with another vocabulary they would teach something else."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = {
        "task": train.task,
        "agent": asdict(train.agent),
        "sizes": asdict(sizes),
        "seed": seed,
        "turns": world.turns,
        "phrases": world.phrases,
    }
    file, text = folder / "pupil.json", json.dumps(asked, indent=1)
    if not file.exists():
        file.write_text(text)
    elif file.read_text() != text:
        raise ConfigError(
            f"{folder} holds a pupil that was taught otherwise (see pupil.json there); take "
            "another --run-dir, or the same settings."
        )


def _examples(
    folder: Path,
    world: World,
    train: TrainConfig,
    sizes: Sizes,
    tokenizer: ChatTokenizer,
    seed: int,
) -> list[Path]:
    """Files of lessons and exercises, made where they are missing."""
    task, file, exercises = make_tool_task(train.task), folder / "lessons.jsonl", world.exercise
    problems = task.problems("train", sizes.lessons, seed=1_000 + seed)
    if not file.exists():
        agents = [replace(train.agent, max_turns=turns) for turns in world.turns]
        played = lessons(world.script, task, tokenizer, agents, problems, file, seed)
        _check(asyncio.run(played))
    if exercises is None:
        return [file]
    source, rows = random.Random(f"exercises/{seed}"), list[dict[str, Any]]()
    for _ in range(sizes.exercises):
        talk = exercises(task, source.sample(problems, TOLD_OF), source)
        turns = [turn for pair in talk for turn in zip(("user", "assistant"), pair)]
        if turns:
            rows.append({"messages": [{"role": role, "content": text} for role, text in turns]})
    more = folder / "exercises.jsonl"
    more.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [file, more]


def _check(rollouts: Any) -> None:
    """A figure of failed episodes is none."""
    failed = [r for r in rollouts if isinstance(r, Rollout) and not r.outcome.is_reward_valid]
    if failed:
        why = dict(failed[0].metadata)
        raise ConfigError(f"{len(failed)} episodes failed, the first by {failed[0].failure}: {why}")
