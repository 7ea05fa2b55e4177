"""`evolute run`: a file with the default backend set, its cost on stderr."""

import sys

import pytest
from typer.testing import CliRunner

from evolute.cli.run import app
from evolute.engine import Engine
from evolute.lang import global_config
from evolute.server import create_app, serve_in_thread

PROGRAM = """
import sys
import evolute.lang as sgl
from neighbour import SHOTS

@sgl.function
def ask(s, question):
    s += SHOTS + question + sgl.gen("answer", max_tokens=4)

print(sys.argv[1:], len(ask.run(question="why")["answer"]) > 0)
print([s.error() for s in ask.run_batch([("a",), ("b",)])])
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    (tmp_path / "neighbour.py").write_text("SHOTS = 'Q: '\n")
    argv, path_before = list(sys.argv), list(sys.path)
    yield path
    sys.argv, sys.path[:] = argv, path_before
    sys.modules.pop("neighbour", None)


def check(result):
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == ["['--fast', 'x'] True", "[None, None]"]
    assert result.stderr.splitlines()[-1].startswith("3 calls, ")
    assert global_config.default_backend is None and global_config.default_account is None


def test_a_file_runs_on_a_model(file):
    words = ["--model", "tiny", "--set", "page_size=4", str(file), "--fast", "x"]
    check(CliRunner().invoke(app, words))


def test_a_file_runs_on_a_server(file):
    with Engine("tiny") as engine:
        server = serve_in_thread(create_app(engine, served_names=["tiny"]))
        check(CliRunner().invoke(app, ["--url", server.url, str(file), "--fast", "x"]))
        server.stop()


def test_a_missing_file_is_named():
    result = CliRunner().invoke(app, ["nowhere.py"])
    assert result.exit_code and "there is no file nowhere.py" in str(result.exception)
