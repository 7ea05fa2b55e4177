"""Shell, editor, interpreter and code search in a real session: what a model is told."""

import asyncio

import pytest
from sandboxes import needs_bwrap

from evolute.envs.sandbox import Bubblewrap, SandboxLimits
from evolute.envs.tools.bash import Bash
from evolute.envs.tools.code_interpreter import CodeInterpreter
from evolute.envs.tools.code_search import CodeSearch
from evolute.envs.tools.contract import Tool, ToolContext
from evolute.envs.tools.editor import Editor
from evolute.envs.tools.registry import PlainAgent
from evolute.types import ToolError

pytestmark = needs_bwrap
LIMITS = SandboxLimits(seconds=10, cpu_seconds=10, memory_mb=512, max_processes=16, disk_mb=8)
FILES = {
    "pkg/shapes.py": b"class Square:\n    def area(self):\n        return self.side ** 2\n",
    "pkg/broken.py": b"def f(:\n    pass\n",
    "notes.txt": b"one\ntwo\nthree\n",
    "data.bin": b"\0\1",
    "latin.txt": b"caf\xe9\n",
}


def told(*calls, files=None):
    """What the model is told for each call (tool, arguments) of one session."""

    async def main():
        async with Bubblewrap(1).open(LIMITS, FILES if files is None else files) as session:
            tools = [Bash(session), Editor(session), CodeInterpreter(session), CodeSearch(session)]
            assert all(isinstance(tool, Tool) for tool in tools)
            by_name = {tool.schema["function"]["name"]: tool for tool in tools}
            context = ToolContext(PlainAgent(), "t", 10.0)
            found = []
            for name, arguments in calls:
                try:
                    found.append((await by_name[name].call(arguments, context)).text)
                except ToolError as error:
                    found.append(f"ToolError: {error}")
            return found

    return asyncio.run(main())


def edit(command, path, **rest):
    return "editor", {"command": command, "path": path, **rest}


def bash(command, **rest):
    return "bash", {"command": command, **rest}


def test_the_shell_keeps_its_folder_and_tells_failures():
    said = told(
        bash("cd pkg && export X=1"),
        bash("pwd; echo $X; ls; exit 3"),
        bash("sleep 9", timeout=1),
        bash("true"),
        bash(" "),
        bash("seq 100000"),
        bash("echo a; echo b >&2"),
        bash("ls", timeout=0),
    )
    assert said[1].startswith("/box/home/pkg\n\n") and said[1].endswith("[exit code 3]")
    assert "[stopped" in said[2] and said[3] == "[no output, exit code 0]"
    assert said[4].startswith("ToolError: command is empty")
    assert said[5].startswith("1\n2\n") and "left out" in said[5] and said[5].endswith("100000")
    assert len(said[5]) < 8200 and said[6] == "a\nb"
    assert "at least 1 second" in said[7]


def test_python_shows_its_last_value_and_its_errors_alone():
    def code(text):
        return "code_interpreter", {"code": text}

    said = told(
        code("x = 6\nprint('go')\nx * 7"),
        code("```python\nprint(1)\n```"),
        code("def f():\n    return 1 / 0\nf()"),
        code("1 +"),
        code("x"),
        code("pass"),
        code("import sys; sys.exit(4)"),
        code("open('kept', 'w').write('k')"),
        code("open('kept').read()"),
        code("input()"),
        code(" "),
        code("import pkg.shapes as s; s.Square.__name__"),
    )
    assert said[0] == "go\n42" and said[1] == "1"
    assert "ZeroDivisionError" in said[2] and 'File "<code>", line 2' in said[2]
    assert "<string>" not in said[2] and said[2].endswith("[exit code 1]")
    assert "SyntaxError" in said[3] and "NameError" in said[4] and "no output" in said[5]
    assert said[6] == "[exit code 4]" and said[8] == "'k'" and "EOFError" in said[9]
    assert said[10].startswith("ToolError: code is empty") and said[11] == "'Square'"


def test_the_editor_views_files_folders_and_ranges():
    said = told(
        edit("view", "notes.txt"),
        edit("view", "/box/home/notes.txt", view_range=[2, -1]),
        edit("view", "."),
        edit("view", "notes.txt", view_range=[3, 9]),
        edit("view", "notes.txt", view_range=[4, 5]),
        edit("view", "pkg", view_range=[1, 2]),
        edit("view", "none"),
        edit("view", "../../etc/passwd"),
        edit("view", "data.bin"),
        edit("view", "latin.txt"),
        edit("view", " "),
    )
    assert said[0] == "     1\tone\n     2\ttwo\n     3\tthree"
    assert said[1] == "     2\ttwo\n     3\tthree"
    assert said[2].split() == sorted(said[2].split()) and "pkg/shapes.py" in said[2].split()
    assert said[3] == "     3\tthree" and "has 3 lines" in said[4] and "is a folder" in said[5]
    assert "does not exist" in said[6] and "outside" in said[7] and "no text" in said[8]
    assert said[9] == "     1\tcaf?" and "path is empty" in said[10]


def test_a_long_file_is_shown_in_whole_lines_that_fit():
    long = {"long.txt": "".join(f"line {k}\n" for k in range(5000)).encode()}
    (said,) = told(edit("view", "long.txt"), files=long)
    last = said.splitlines()[-1]
    assert len(said) < 8500 and last.startswith("[lines ") and "view_range [" in last


def test_edits_are_made_refused_and_taken_back():
    shapes = "pkg/shapes.py"
    said = told(
        edit("str_replace", shapes, old_str="self.side ** 2", new_str="self.side * self.side"),
        edit("str_replace", shapes, old_str="        return", new_str="return"),
        edit("insert", shapes, insert_line=3, insert_text="    def sides(self):\n        return 4"),
        edit("view", shapes),
        edit("undo", shapes),
        edit("undo", "./pkg/../pkg/shapes.py"),
        edit("view", shapes),
        edit("undo", shapes),
        edit("create", "new/deep/a.py", file_text="x = 1\n"),
        edit("create", "new/bad.py", file_text="x ="),
        edit("undo", "new/deep/a.py"),
        edit("view", "new/deep/a.py"),
        edit("str_replace", "pkg/broken.py", old_str="pass", new_str="return 1"),
        edit("str_replace", "pkg/broken.py", old_str="f(:", new_str="f():"),
        edit("insert", shapes),
        edit("delete", shapes),
        edit("str_replace", "latin.txt", old_str="caf", new_str="CAF"),
        bash("od -An -c latin.txt"),
    )
    assert said[0].startswith("pkg/shapes.py is edited:") and "self.side * self.side" in said[0]
    assert "nothing was changed" in said[1] and "line 3" in said[1]
    assert "5\t        return 4" in said[3]
    assert "taken back" in said[4] and "taken back" in said[5]
    assert "** 2" in said[6] and "no edit" in said[7]
    assert "is written, 1 lines" in said[8] and "nothing was changed" in said[9]
    assert "does not exist any more" in said[10] and "does not exist" in said[11]
    assert "still no valid Python" in said[12] and "still" not in said[13]
    assert "insert needs insert_line, insert_text too" in said[14]
    assert "it is one of view, create" in said[15]
    assert said[17].split() == ["C", "A", "F", "351", "\\n"]


def test_links_lead_the_editor_nowhere_else():
    said = told(
        bash("ln -s /usr/lib lib; ln -s notes.txt inner; ln -s /box/other out"),
        edit("view", "lib"),
        edit("create", "lib/x", file_text="x"),
        edit("create", "out", file_text="x"),
        edit("str_replace", "inner", old_str="two", new_str="2"),
        bash("cat notes.txt; ls -l inner | cut -c1; ls /box"),
    )
    assert all("outside" in one for one in said[1:4])
    assert said[5] == "one\n2\nthree\nl\nhome"


def test_the_code_index_follows_edits_and_survives_hostile_files():
    search = "code_search"
    hostile = "x = " + "(" * 400 + ")" * 400 + "\n"
    said = told(
        (search, {"search_terms": ["Square.area"]}),
        bash("sed -i s/area/surface/ pkg/shapes.py"),
        (search, {"search_terms": ["area", "pkg/shapes.py:Square.surface"]}),
        bash(f"echo '{hostile}' > pkg/deep.py; rm notes.txt; echo 'def late(): pass' > late.py"),
        (search, {"search_terms": ["late"]}),
        bash("rm pkg/shapes.py"),
        (search, {"search_terms": ["Square"], "file_path_or_pattern": "pkg/*.py"}),
        (search, {"search_terms": ["x"], "file_path_or_pattern": "none/*.py"}),
        (search, {}),
    )
    assert "pkg/shapes.py:Square.area (method, lines 2-3)" in said[0]
    assert "return self.side ** 2" in said[0] and "Nothing found" in said[2]
    assert "def surface" in said[2]
    assert "late.py:late (function, lines 1-1)" in said[4]
    assert "Nothing found" in said[6]
    assert "no Python file matches 'none/*.py'" in said[7] and "search_terms" in said[8]


@pytest.mark.parametrize("name", ["bash", "editor", "code_interpreter", "code_search"])
def test_a_wrong_parameter_is_told(name):
    (said,) = told((name, {"wrong": 1}))
    assert said.startswith(f"ToolError: {name} has no parameter 'wrong'.")
