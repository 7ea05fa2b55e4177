"""Code search over a repository held in memory: what is found, and how much of it is shown."""

import argparse
import json
from pathlib import Path

import pytest

from evolute.envs.tools.code_index import CodeIndex, is_test
from evolute.envs.tools.code_outline import outline
from evolute.envs.tools.code_search import answer
from evolute.types import ToolError

LONG = "class Long:\n" + "".join(f"    def m{k}(self):\n        return {k}\n\n" for k in range(90))
REPOSITORY = {
    "app/main.py": "from app import tools\n\n\n@tools.mark\ndef run(x):\n    return tools.step(x)\n",
    "app/tools.py": "def step(x):\n    def inner():\n        return x\n    return inner()\n",
    "app/classes.py": "class Classroom:\n    size = 3\n\n    def Step(self):\n        if True:\n"
    "            def nested(): pass\n        return 1\n\n\nclass Room(Classroom):\n    pass\n",
    "app/long.py": LONG,
    "app/bad.py": "def oops(:\n",
    "tests/test_main.py": "def test_run():\n    assert 'needle in tests'\n",
    **{f"many/m{k}.py": f"def same_name():\n    return 'common text {k}'\n" for k in range(25)},
}


def index_of(files):
    index = CodeIndex()
    index.update(files, {path: outline(text) for path, text in files.items()})
    return index


INDEX = index_of(REPOSITORY)


def search(*terms, lines=(), pattern="**/*.py", index=INDEX):
    return answer(index, terms, lines, pattern)


def test_outlines_have_kinds_dotted_names_and_decorators_lines():
    assert outline(REPOSITORY["app/main.py"]) == [("function", "run", 4, 6)]
    assert outline(REPOSITORY["app/classes.py"]) == [
        ("class", "Classroom", 1, 7),
        ("method", "Classroom.Step", 4, 7),
        ("function", "Classroom.Step.nested", 6, 6),
        ("class", "Room", 10, 11),
    ]
    assert outline("def f(:") is None and outline("\0") is None and outline("") == []
    assert json.loads(json.dumps(outline(LONG)))[1] == ["method", "Long.m0", 2, 3]


def test_an_exact_id_shows_the_whole_code():
    said = search("app/tools.py:step")
    assert "app/tools.py:step (function, lines 1-4)" in said and "4\t    return inner()" in said


def test_more_than_two_hundred_lines_are_shown_as_their_parts():
    said = search("app/long.py:Long")
    assert "too long to show" in said and "method Long.m89 (lines 269-270)" in said
    assert "return 5" not in said and "Next: search `app/long.py:Long.m0`" in said


def test_a_name_is_found_whatever_its_case_and_part():
    assert "app/tools.py:step (function" in search("step")  # the exact case comes first
    assert "Classroom.Step" not in search("step").split("The text stands")[0]
    assert "app/classes.py:Classroom.Step" in search("Classroom.step")
    assert "app/classes.py:Classroom.Step" in search("Other.Step")
    assert "app/tools.py:step" in search("tools.py:step")
    assert "app/classes.py:Classroom (class" in search("class Classroom(object):")
    assert "app/tools.py:step.inner" in search("def inner(")


def test_a_name_that_begins_with_a_keyword_is_a_name():
    assert "app/classes.py:Classroom (class, lines 1-7)" in search("Classroom")
    assert "Nothing found" in search("class step_")


def test_more_than_three_candidates_are_folded():
    said = search("same_name")
    assert said.count("\n- many/") > 3 and "return 'common" not in said
    assert "Next: search one of these ids" in said


def test_a_text_in_one_file_gives_lines_in_several_counts_in_many_a_warning():
    assert "stands in app/classes.py at lines 2" in search("size = 3")
    assert "stands in tests/test_main.py at lines 2" in search("needle in tests")
    assert "stands in 2 files" in search("return x")
    said = search("common text")
    assert "stands in 22 or more files; the first 20" in said and said.count("\n- many/") == 20


def test_the_pattern_comes_first_and_then_anywhere():
    assert "stands in many/m7.py at lines 2" in search("common text", pattern="many/m7.py")
    assert "stands in app/classes.py" in search("size = 3", pattern="many/*.py")
    with pytest.raises(ToolError, match="no Python file matches 'nowhere'"):
        search("x", pattern="nowhere")


def test_words_are_ranked_only_when_nothing_else_is_found():
    said = search("text of the common kind 7")
    assert (
        "No such name or text" in said and "many/m7.py:" in said.split("Next")[0].split("\n\n")[0]
    )
    assert "Nothing found" in search("zzzz qqqq")


def test_files_and_folders_have_outlines():
    assert "class Room (lines 10-11)" in search("app/classes.py")
    assert "- app/tools.py" in search("app")
    assert "no valid Python" in search("app/bad.py")


def test_lines_are_shown_with_twenty_around():
    said = search(lines=[50, 55], pattern="app/long.py")
    assert "\n    30\t" in said and "\n    75\t" in said and "[...]" not in said
    assert "[...]" in search(lines=[1, 200], pattern="app/long.py")
    with pytest.raises(ToolError, match="there is no line 999"):
        search(lines=[999], pattern="app/long.py")
    with pytest.raises(ToolError, match="needs one file"):
        search(lines=[1])


def test_what_is_shown_already_is_not_shown_again():
    said = search("app/tools.py:step", "step")
    assert said.count("(function, lines 1-4)") == 1 and "see above" in said


def test_tests_are_not_looked_up_by_name():
    assert "test_run (function" not in search("test_run")
    assert [is_test(p) for p in ("tests/a.py", "a/test_b.py", "a/contest.py", "conftest.py")] == [
        True, True, False, True,
    ]  # fmt: skip


def test_an_index_follows_its_files():
    index = index_of({"a.py": "def old(): pass\n"})
    assert index.ranked("old", ["a.py"], 1)
    index.update({"a.py": "def new(): pass\n"}, {"a.py": outline("def new(): pass\n")})
    assert "Nothing found" in search("old", index=index) and "a.py:new" in search(
        "new", index=index
    )
    index.update({"b.py": ""}, {"b.py": []})
    index.drop(["a.py"])
    assert index.entities("new", ["b.py"]) == []


def test_a_real_module_is_found_in_one_call():
    path = Path(argparse.__file__)
    index = index_of({"lib/argparse.py": path.read_text()})
    said = search("ArgumentParser.parse_known_args", index=index)
    source = path.read_text().splitlines()
    line = next(k for k, text in enumerate(source, 1) if "def parse_known_args(" in text)
    assert f"lib/argparse.py:ArgumentParser.parse_known_args (method, lines {line}-" in said
    assert source[line - 1] in said
