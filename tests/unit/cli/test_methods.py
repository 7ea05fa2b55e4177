"""The table of methods and the options around it."""

import json

import pytest
from typer.testing import CliRunner

from evolute.cli import methods
from evolute.cli.eval import _split, app
from evolute.cli.methods import METHODS, make_method, roles_of
from evolute.reasoning.method import Method, Roles
from evolute.testing import ScriptedTextBackend
from evolute.types import ConfigError, SandboxError

SOLVER = ScriptedTextBackend(["7"])


def no_sandbox():
    raise SandboxError("none here")


@pytest.mark.parametrize("name", METHODS)
def test_each_name_makes_a_method_that_says_its_name(name, tmp_path):
    settings = {"path": str(tmp_path / "b.db")} if name == "thought_buffer" else {}
    method = make_method(name, Roles(SOLVER), no_sandbox, settings)
    assert isinstance(method, Method) and method.name == name


def test_the_table_is_what_the_plan_says():
    assert list(METHODS) == [
        "greedy", "cot", "majority", "tree_of_thoughts", "pal", "thought_buffer", "s_star",
        "s_star_plus", "public", "public_majority", "generated_tests", "best_of_n", "oracle",
    ]  # fmt: skip


def test_unknown_methods_and_settings_are_refused():
    with pytest.raises(ConfigError, match="Did you mean 'majority'"):
        make_method("majorty", Roles(SOLVER), no_sandbox, {})
    with pytest.raises(ConfigError, match="max_new_tokens"):
        make_method("greedy", Roles(SOLVER), no_sandbox, {"max_new_token": "5"})


def test_roles_are_named_once_and_by_url(monkeypatch):
    made = []
    monkeypatch.setattr(methods, "endpoint", lambda url, model: made.append((url, model)) or SOLVER)
    roles = roles_of(["judge=http://a/v1#m", "x=https://b"], lambda: "local")
    assert made == [("http://a/v1", "m"), ("https://b", "")]
    assert roles.solver == "local" and roles.of("judge") is SOLVER and roles.of("other") == "local"
    elsewhere = roles_of(["solver=http://c#m"], lambda: pytest.fail("no engine is needed"))
    assert elsewhere.solver is SOLVER and elsewhere.others == {}
    for bad in (["judge"], ["=http://a"], ["judge=a#m"], ["a=http://a", "a=http://b"]):
        with pytest.raises(ConfigError, match="--role"):
            roles_of(bad, lambda: SOLVER)


def test_settings_of_the_method_are_told_from_the_engines():
    words = ["method.samples=3", "page_size=4", "method.limits.memory_mb=64"]
    own, engine = _split(words)
    assert own == {"samples": "3", "limits": {"memory_mb": "64"}} and engine == ["page_size=4"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget-calls", "3"], "--budget-calls needs --method"),
        (["--role", "judge=http://a#b"], "--role needs --method"),
        (["--set", "method.samples=3"], "method.* needs --method"),
        (["--method", "greedy", "--temperature", "1"], "--set method.*"),
        (["--method", "gredy"], "Did you mean 'greedy'"),
        (["--method", "greedy", "--budget-calls", "-1"], "budget of -1 calls"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options, message):
    run = CliRunner().invoke(app, ["addition-1", "--model", "tiny", *options])
    assert run.exit_code != 0 and message in str(run.exception)


def test_eval_by_a_method_prints_accuracy_and_cost(tmp_path):
    options = ["--model", "tiny", "--method", "greedy", "--count", "4", "--json"]
    options += ["--set", "method.max_new_tokens=3", "--out", str(tmp_path / "out.jsonl")]
    run = CliRunner().invoke(app, ["addition-1", *options], catch_exceptions=False)
    report = json.loads(run.stdout.splitlines()[-1])
    needed = "task method accuracy low high n failed calls prompt_tokens output_tokens reasons"
    assert set(needed.split()) <= report.keys()
    assert report["calls"] == report["n"] == 4 and report["output_tokens"] <= 12
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(rows) == 4 and all(row["reason"] == "answered" for row in rows)
