"""What do forced tokens bring? The same constrained answers with and without jump-forward, in turn.

    character   the paper's example: a record of a character by a regex (SGLang, arXiv 2312.07104)
    schema      a JSON schema without white space
    open        a regex that forces nothing: what looking for forced tokens costs

Each alone in the engine (`alone/`) and eight at a time (`batch/`), at temperature 0.7 with seeds.
Per kind: `steps` and `plain_steps` (forward passes, exact), `fewer`, the second by the first, and
`ratio`, the time without by the time with jump-forward, of runs that follow one another. The
answers' digests of both must be equal where the precision is float32; else `notes` says when they
are not.
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import asdict
from typing import Any

from evolute.bench.result import BenchResult, digest_of, one_digest, summarize
from evolute.bench.told import tell
from evolute.engine import Engine, EngineConfig
from evolute.models import LoadedModel, load_model
from evolute.types import SamplingParams

WORD = "[A-Za-z0-9 ]{1,16}"
CHARACTER = (
    r"\{\n"
    rf'    "name": "{WORD}",\n'
    r'    "house": "(Gryffindor|Slytherin|Ravenclaw|Hufflepuff)",\n'
    r'    "blood status": "(Pure-blood|Half-blood|Muggle-born)",\n'
    r'    "occupation": "(student|teacher|auror|healer|shopkeeper)",\n'
    r'    "wand": \{\n'
    rf'        "wood": "{WORD}",\n'
    rf'        "core": "{WORD}",\n'
    r'        "length": [0-9]{1,2}\.[0-9]\n'
    r"    \},\n"
    r'    "alive": "(Alive|Deceased)",\n'
    rf'    "patronus": "{WORD}",\n'
    rf'    "boggart": "{WORD}"\n'
    r"\}"
)
SCHEMA = json.dumps(
    {
        "x-guidance": {"whitespace_flexible": False},
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 16},
            "temperature_celsius": {"type": "integer", "minimum": -40, "maximum": 50},
            "condition": {"enum": ["sunny", "cloudy", "rain", "snow"]},
            "wind": {
                "type": "object",
                "properties": {
                    "direction": {"enum": ["north", "east", "south", "west"]},
                    "kilometres_per_hour": {"type": "integer", "minimum": 0, "maximum": 200},
                },
                "required": ["direction", "kilometres_per_hour"],
                "additionalProperties": False,
            },
        },
        "required": ["city", "temperature_celsius", "condition", "wind"],
        "additionalProperties": False,
    }
)
GRAMMARS: dict[str, dict[str, Any]] = {
    "character": {"regex": CHARACTER},
    "schema": {"json_schema": SCHEMA},
    "open": {"regex": "[a-z ,.]{80,96}"},
}
PROMPTS = {
    "character": "Harry Potter is a wizard. Fill in this form about another character.\n",
    "schema": "The weather report of today, as JSON.\n",
    "open": "Once upon a time",
}
BATCH = 8


def run(
    quick: bool,
    *,
    model: str | LoadedModel = "smollm2-135m",
    config: EngineConfig | None = None,
    repeats: int = 3,
) -> BenchResult:
    """All kinds, `repeats` times; `quick` once, with two answers of each kind."""
    loaded = load_model(model) if isinstance(model, str) else model
    config, repeats = config or EngineConfig(), 1 if quick else repeats
    count = 2 if quick else BATCH
    rounds, same, digests = [], True, []
    with Engine(loaded, dataclasses.replace(config, jump_forward=True)) as engine:
        for kind in GRAMMARS:
            _measure(engine, kind, 1, batched=True)  # compiles, and warms the code
        for number in range(repeats):
            figures: dict[str, float] = {}
            for kind in GRAMMARS:
                for how in ("alone", "batch"):
                    found, digest, is_same = _compare(
                        engine, kind, count, batched=how == "batch", jump_first=number % 2 == 1
                    )
                    figures |= {f"{kind}/{how}/{name}": value for name, value in found.items()}
                    told = (
                        f"{found['fewer']:.2f} times fewer steps, {found['ratio']:.2f} times faster"
                    )
                    tell(f"round {number + 1} of {repeats}, {kind}, {how}: {told}")
                    same &= is_same
                    digests.append((f"{kind}/{how}", digest))
            rounds.append(figures)
    median, spread = summarize(rounds)
    digest = one_digest([d for name, d in digests if name == "character/alone"])
    notes = () if same else ("the answers with jump-forward differ from those without",)
    return BenchResult("grammar", asdict(config), median, repeats, spread, digest, notes)


# -- internals ---------------------------------------------------------------


def _compare(
    engine: Engine, kind: str, count: int, *, batched: bool, jump_first: bool
) -> tuple[dict[str, float], str, bool]:
    """Figures of both, the digest with jump-forward, and whether the other's is the same."""
    found = {}
    for jump in (jump_first, not jump_first):
        engine.apply_settings(jump_forward=jump)
        found[jump] = _measure(engine, kind, count, batched=batched)
    (with_, digest), (without, other) = found[True], found[False]
    figures = {
        "tokens": with_["tokens"],
        "forced_frac": with_["jumped"] / with_["tokens"],
        "steps": with_["steps"],
        "plain_steps": without["steps"],
        "fewer": without["steps"] / with_["steps"],
        "seconds": with_["seconds"],
        "plain_seconds": without["seconds"],
        "ratio": without["seconds"] / with_["seconds"],
    }
    return figures, digest, digest == other


def _measure(
    engine: Engine, kind: str, count: int, *, batched: bool
) -> tuple[dict[str, float], str]:
    """`count` answers; one after the other, or all at once."""
    engine.flush_cache()
    before, outputs = engine.stats().counts, []
    samplings = [
        SamplingParams(max_new_tokens=256, temperature=0.7, seed=seed, **GRAMMARS[kind])
        for seed in range(count)
    ]
    started = time.perf_counter()
    if batched:
        together = dataclasses.replace(samplings[0], n=count)
        outputs += engine.generate(PROMPTS[kind], together)
    else:
        for sampling in samplings:
            outputs += engine.generate(PROMPTS[kind], sampling)
    seconds = time.perf_counter() - started
    after = engine.stats().counts
    figures = {
        "seconds": seconds,
        "tokens": float(after.output_tokens - before.output_tokens),
        "steps": float(after.steps - before.steps),
        "jumped": float(after.jumped_tokens - before.jumped_tokens),
    }
    return figures, digest_of([(str(i), output.token_ids) for i, output in enumerate(outputs)])
