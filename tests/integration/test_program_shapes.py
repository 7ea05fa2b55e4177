"""Every shape of programs finds in the cache what there is to find, in whatever way it is run."""

import json

import pytest

import evolute.lang as sgl
from evolute.bench.programs.bench import run
from evolute.bench.programs.plain import PROGRAMS
from evolute.bench.programs.sides import IN_PROCESS, Sides
from evolute.engine import EngineConfig
from evolute.lang.shapes import SHAPES
from evolute.models import load_model
from evolute.types import ConfigError

TINY = load_model("tiny")
CONFIG = EngineConfig(page_size=1, num_threads=1, memory_mb=64)


@pytest.fixture(scope="module")
def sides():
    with Sides(TINY, CONFIG) as sides:
        yield sides


@pytest.mark.parametrize("name", SHAPES)
def test_ours_finds_the_optimum_and_every_way_says_the_same(sides, name):
    arguments = SHAPES[name].inputs(5)
    ours = sides.run("ours", name, arguments)
    assert ours.share is not None
    assert 0.96 <= ours.share.of_best <= 1.0, ours.share
    assert ours.share.best > 0.5 * ours.share.total
    for side in IN_PROCESS[1:]:
        other = sides.run(side, name, arguments)
        assert other.answers == ours.answers, side
        if side in ("no_cache", "one_call"):
            assert other.share.cached == 0
    assert sides.run("ours", name, arguments).answers == ours.answers


def test_inputs_are_the_same_for_a_seed_and_differ_between_seeds():
    for name, shape in SHAPES.items():
        assert shape.inputs(6, seed=1) == shape.inputs(6, seed=1), name
        assert shape.inputs(6, seed=1) != shape.inputs(6, seed=2), name
        json.dumps(shape.inputs(6))
    assert set(PROGRAMS) == set(SHAPES)


def test_settings_of_the_bench_are_put_back(sides):
    before = sgl.global_config.enable_fork_hints
    sides.run("no_hints", "few_shot", SHAPES["few_shot"].inputs(2))
    assert before is sgl.global_config.enable_fork_hints is True


def test_the_bench_on_a_small_scale():
    result = run(True, model=TINY, config=CONFIG, shapes=["few_shot", "tree_of_thought", "many"])
    assert result.figures["all/least_cached_of_best"] >= 0.96
    assert result.figures["many/programs"] == 200
    assert {f"all/{side}_ratio" for side in IN_PROCESS[1:]} <= set(result.figures)
    assert result.notes == ()
    with pytest.raises(ConfigError, match="few_shots"):
        run(True, model=TINY, shapes=["few_shots"])


@pytest.mark.slow
def test_every_shape_over_http_and_by_the_openai_client():
    result = run(True, model="tiny", config=CONFIG, shapes=list(SHAPES))
    for side in ("http", "openai", "openai_forked"):
        assert result.figures[f"all/{side}_ratio"] > 0
    assert not [note for note in result.notes if ": http " in note]
