"""`evolute eval --recipe`: a file says what --set would."""

from pathlib import Path

import pytest

from evolute.cli.methods import make_method
from evolute.cli.options import words_of
from evolute.envs.sandbox import Unprotected
from evolute.reasoning.method import Roles
from evolute.testing import ScriptedTextBackend
from evolute.types import ConfigError

RECIPE = Path(__file__).parents[3] / "recipes" / "human-eval.toml"


def test_a_recipe_is_read_as_words(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text(
        'a = true\n[method]\nstyle = "complete"\npackages = ["x"]\n[method.b]\nc = 1.5\n'
    )
    assert words_of(file) == ["a=true", "method.style=complete", 'method.packages=["x"]',
                              "method.b.c=1.5"]  # fmt: skip
    for bad in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            words_of(bad)


def test_the_recipe_of_human_eval_holds_settings_that_exist():
    own = {}
    for word in words_of(RECIPE):
        key, _, value = word.removeprefix("method.").partition("=")
        section, dot, name = key.partition(".")
        if dot:
            own.setdefault(section, {})[name] = value
        else:
            own[key] = value
    method = make_method("s_star_plus", Roles(ScriptedTextBackend()), Unprotected, own)
    assert method.name == "s_star_plus" and method.config.style == "body"


@pytest.mark.parametrize(
    "name",
    [
        "s_star",
        "s_star_plus",
        "public",
        "public_majority",
        "generated_tests",
        "best_of_n",
        "oracle",
    ],
)
def test_every_method_on_programs_can_be_made(name):
    roles = Roles(ScriptedTextBackend())
    assert make_method(name, roles, Unprotected, {}, writes_code=True).name == name
    assert make_method("majority", roles, Unprotected, {}, writes_code=True).name == "majority"
    with pytest.raises(ConfigError, match="sampels"):
        make_method(name, roles, Unprotected, {"sampels": 3}, writes_code=True)
