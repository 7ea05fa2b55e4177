"""What does guessing bring? One stream with and without it, in turn, on three kinds of text.

    copying     prose that the prompt asks to have again, greedy: most guesses are right
    greedy      openings of prose, greedy: a small model soon repeats itself
    sampled     the same at temperature 0.8: little repeats

Per kind: `tokens_per_step` (1 without guesses), `accepted_frac` of the guesses, and `ratio`, the
time without by the time with guesses, of runs that follow one another. The answers' digests of both
must be equal where the precision is float32; else `notes` says when they are not.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import asdict

from evolute.bench.result import BenchResult, digest_of, one_digest, summarize
from evolute.engine import Engine, EngineConfig
from evolute.models import LoadedModel, load_model
from evolute.types import SamplingParams

PROSE = (
    "The mill stood where the river bends, and in dry years its wheel did not turn at all.",
    "A list of what the ship carried: salt, rope, forty barrels of tar, and one piano.",
    "To find the height of a tree, measure its shadow and the shadow of a stick beside it.",
    "She kept every letter, in the order in which they came, and answered none of them.",
)
KINDS = ("copying", "greedy", "sampled")


def run(
    quick: bool,
    *,
    model: str | LoadedModel = "smollm2-135m",
    config: EngineConfig | None = None,
    repeats: int = 3,
) -> BenchResult:
    """All kinds, `repeats` times; `quick` once, with short outputs."""
    loaded = load_model(model) if isinstance(model, str) else model
    config, repeats = config or EngineConfig(), 1 if quick else repeats
    tokens = 16 if quick else 128
    rounds, same = [], True
    digests = []
    with Engine(loaded, dataclasses.replace(config, speculation="none")) as engine:
        for kind in KINDS:
            _measure(engine, kind, tokens)  # warms the code
        for _ in range(repeats):
            figures: dict[str, float] = {}
            for kind in KINDS:
                plain, expected = _measure(engine, kind, tokens)
                engine.apply_settings(speculation="ngram")
                guessing, digest = _measure(engine, kind, tokens)
                engine.apply_settings(speculation="none")
                same &= digest == expected
                digests.append((kind, digest))
                figures |= {f"{kind}/{name}": value for name, value in guessing.items()}
                figures[f"{kind}/plain_seconds"] = plain["seconds"]
                figures[f"{kind}/ratio"] = plain["seconds"] / guessing["seconds"]
            rounds.append(figures)
    median, spread = summarize(rounds)
    digest = one_digest([d for kind, d in digests if kind == KINDS[0]])
    notes = () if same else ("the answers with guesses differ from those without",)
    return BenchResult("speculation", asdict(config), median, repeats, spread, digest, notes)


# -- internals ---------------------------------------------------------------


def _measure(engine: Engine, kind: str, tokens: int) -> tuple[dict[str, float], str]:
    """One request after the other, each alone in the engine."""
    engine.flush_cache()
    before, outputs = engine.stats().counts, []
    started = time.perf_counter()
    for number, text in enumerate(PROSE):
        prompt = f"{' '.join(PROSE)}\n\n{text}" if kind == "copying" else text
        temperature = 0.8 if kind == "sampled" else 0.0
        sampling = SamplingParams(
            max_new_tokens=tokens, temperature=temperature, seed=number, ignore_eos=True
        )
        outputs += engine.generate(prompt, sampling)
    seconds = time.perf_counter() - started
    after = engine.stats().counts
    drafted = after.drafted_tokens - before.drafted_tokens
    accepted = after.accepted_tokens - before.accepted_tokens
    figures = {
        "seconds": seconds,
        "tokens_per_step": (after.output_tokens - before.output_tokens)
        / (after.steps - before.steps),
        "accepted_frac": accepted / drafted if drafted else 0.0,
        "drafted_tokens": float(drafted),
    }
    return figures, digest_of([(str(i), output.token_ids) for i, output in enumerate(outputs)])
