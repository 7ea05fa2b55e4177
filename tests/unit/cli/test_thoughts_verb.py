"""`evolute thoughts`: a buffer is seen and changed by hand."""

import asyncio
import json

import pytest
from typer.testing import CliRunner

from evolute.cli.thoughts import app
from evolute.reasoning.thought_buffer import Buffer, Slot, ThoughtTemplate
from evolute.testing import HashingEmbedder
from evolute.types import ConfigError


@pytest.fixture
def path(tmp_path, monkeypatch):
    file = tmp_path / "t.db"
    monkeypatch.setattr("evolute.cli.thoughts._embedder", lambda url, model: HashingEmbedder())
    with Buffer(file, HashingEmbedder()) as buffer:
        for name in ("sums of numbers", "words in order"):
            template = ThoughtTemplate(
                "mathematics", name, "code", "print(text)", (Slot("text", "str", "text"),)
            )
            asyncio.run(buffer.add(template))
    return file


def thoughts(*words):
    result = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def listed(path, *more):
    return json.loads(thoughts("list", "--buffer", path, "--json", *more).splitlines()[-1])[
        "templates"
    ]


def test_list_and_show(path):
    rows = listed(path)
    assert [row["description"] for row in rows] == ["sums of numbers", "words in order"]
    assert "sums of numbers" in thoughts("list", "--buffer", path)
    shown = thoughts("show", "--buffer", path, rows[0]["id"][:6])
    assert "print(text)" in shown and "text: str = text" in shown
    assert json.loads(thoughts("show", "--buffer", path, rows[0]["id"], "--json"))["slots"]


def test_retire_and_back(path):
    id = listed(path)[0]["id"]
    thoughts("retire", "--buffer", path, id)
    assert len(listed(path)) == 1
    assert [row["retired"] for row in listed(path, "--all")] == [True, False]
    thoughts("retire", "--buffer", path, id, "--undo")
    assert len(listed(path)) == 2


def test_edit_export_import_rebuild(path, tmp_path):
    id, body = listed(path)[0]["id"], tmp_path / "body.py"
    body.write_text("print(text * 2)")
    thoughts("edit", "--buffer", path, id, "--description", "totals", "--body", body)
    assert listed(path)[0]["description"] == "totals"
    thoughts("export", "--buffer", path, tmp_path / "t.jsonl")
    words = ["import", "--buffer", tmp_path / "new.db", tmp_path / "t.jsonl", "--json"]
    assert json.loads(thoughts(*words)) == {"added": 2, "known": 0}
    assert json.loads(thoughts(*words)) == {"added": 0, "known": 2}
    assert "print(text * 2)" in thoughts("show", "--buffer", tmp_path / "new.db", id)
    thoughts("rebuild", "--buffer", path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["list", "--buffer", "gone.db"], "does not exist"),
        (["show", "--buffer", "{}", "zzz"], "no thought template"),
        (["edit", "--buffer", "{}", "zzz"], "nothing to edit"),
        (["edit", "--buffer", "{}", "zzz", "--category", "cooking"], "no thought template"),
        (["import", "--buffer", "{}", "gone.jsonl"], "cannot be read"),
    ],
)
def test_mistakes_name_the_fix(path, words, said):
    with pytest.raises(ConfigError, match=said):
        thoughts(*[word.format(path) for word in words])
