"""Whatever the tuner may try is a setting that the engine takes."""

import random

from evolute.engine import EngineConfig
from evolute.envs.tuning import engine_space


def test_every_value_can_be_set():
    for dimension in engine_space().dimensions:
        for value in dimension.choices:
            EngineConfig(**{dimension.name: value})


def test_every_draw_can_be_set_and_guessing_is_among_them():
    space, source = engine_space(), random.Random(0)
    drawn = [EngineConfig(**space.draw(source)) for _ in range(200)]
    guessing = {(c.draft_tokens, c.speculate_up_to) for c in drawn if c.speculation == "ngram"}
    assert len(guessing) == 9 and any(c.speculation == "none" for c in drawn)
