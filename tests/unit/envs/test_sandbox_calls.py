"""One program, many inputs: each call alone, a bad one costs its own input."""

import asyncio

import pytest
from sandboxes import needs_bwrap

from evolute.envs.sandbox.bubblewrap import Bubblewrap
from evolute.envs.sandbox.calls import call_all, call_each
from evolute.envs.sandbox.contract import SandboxLimits
from evolute.envs.sandbox.unsafe import Unprotected
from evolute.envs.sandbox.values import decode, encode

LIMITS = SandboxLimits(seconds=5, cpu_seconds=5)
SHORT = SandboxLimits(seconds=0.7, cpu_seconds=5)


@pytest.fixture(params=[pytest.param(Bubblewrap, marks=needs_bwrap), Unprotected])
def sandbox(request):
    return request.param()


def call(sandbox, source, entry_point, inputs, limits=LIMITS):
    return asyncio.run(call_each(sandbox, source, entry_point, inputs, limits))


def states(reports):
    return [report.state for report in reports]


def test_values_come_back_in_order(sandbox):
    source = "def f(a, b):\n    print('noise')\n    return a + b\n"
    reports = call(sandbox, source, "f", [(1, 2), ("a", "b"), ([1], [2.5]), ((1,), (2,))])
    assert states(reports) == ["ok"] * 4
    assert [decode(r.value) for r in reports] == [3, "ab", [1, 2.5], (1, 2)]


def test_no_inputs_run_nothing(sandbox):
    assert call(sandbox, "1/0", "f", []) == []


def test_each_failure_costs_its_own_input(sandbox):
    source = """
import os, time
def f(x):
    if x == 1: 1 / 0
    if x == 2: time.sleep(60)
    if x == 3: os.kill(os.getpid(), 9)
    if x == 4: os._exit(7)
    if x == 5: raise SystemExit(0)
    if x == 6: return 'y' * 10**6
    if x == 7: return [0] * 10**10
    return x
"""
    reports = call(sandbox, source, "f", [(i,) for i in range(9)], SHORT)
    expected = ["ok", "raised", "timeout", "died", "died", "raised", "raised", "raised", "ok"]
    assert states(reports) == expected
    assert reports[1].error == "ZeroDivisionError: division by zero"
    assert "SIGKILL" in reports[3].error and "exit code 7" in reports[4].error
    assert "1000002 characters" in reports[6].error and "MemoryError" in reports[7].error
    assert all((r.value == "") == (r.state != "ok") for r in reports)


def test_calls_do_not_see_each_other(sandbox):
    source = """
import os, random
seen = []
def f(x):
    seen.append(x)
    was = os.path.exists('left')
    open('left', 'w').write('x')
    return len(seen), was, random.random()
"""
    reports = call(sandbox, source, "f", [(1,), (2,)])
    assert reports[0].value == reports[1].value and decode(reports[0].value)[:2] == (1, False)


def test_a_fork_that_answers_twice_counts_once(sandbox):
    source = "import os\ndef f(x):\n    os.fork()\n    return x\n"
    assert [decode(r.value) for r in call(sandbox, source, "f", [(1,), (2,)])] == [1, 2]


def test_methods_of_classes(sandbox):
    source = "class Solution:\n    def twice(self, x):\n        return 2 * x\n"
    assert decode(call(sandbox, source, "Solution.twice", [(4,)])[0].value) == 8


@pytest.mark.parametrize(
    ("source", "error"),
    [("def g(): pass", "does not define 'f'"), ("def f(", "SyntaxError"), ("f = 3", "TypeError")],
)
def test_a_program_that_cannot_be_called(sandbox, source, error):
    (report,) = call(sandbox, source, "f", [(1,)])
    assert report.state == "raised" and error in report.error


def test_whole_programs_read_stdin_and_print(sandbox):
    source = "import sys\nfor line in sys.stdin: print(int(line) * 2)\n"
    source += "if __name__ == '__main__': print('end')"
    reports = call(sandbox, source, "", [("1\n2\n",), ("",), ("x\n",)])
    assert states(reports) == ["ok", "ok", "raised"]
    assert [decode(r.value) for r in reports[:2]] == ["2\n4\nend\n", "end\n"]
    (report,) = call(sandbox, "print(input())\nraise SystemExit(3)", "", [("a",)])
    assert report.state == "raised" and "exit code 3" in report.error


def test_values_without_a_text_are_refused_here(sandbox):
    loop: list = []
    loop.append(loop)
    with pytest.raises(ValueError, match="deeper"):
        call(sandbox, "def f(x): return x", "f", [(loop,)])


def test_inputs_keep_their_types(sandbox):
    inputs = [({1, 2},), ((1, 2),), ({"a": (1,)},), (b"\0",), (float("inf"),), (None,)]
    source = "def f(x): return x"
    assert [r.value for r in call(sandbox, source, "f", inputs)] == [encode(x) for (x,) in inputs]


def test_calls_together_share_a_process_and_end_with_the_first_failure(sandbox):
    source = "seen = []\ndef f(x):\n    seen.append(x)\n    return 6 // x, len(seen)\n"
    reports = asyncio.run(call_all(sandbox, source, "f", [(1,), (2,), (0,), (3,)], LIMITS))
    assert [decode(r.value) for r in reports[:2]] == [(6, 1), (3, 2)]
    assert states(reports) == ["ok", "ok", "raised", "died"]
    reports = asyncio.run(call_all(sandbox, "def f(x):\n  while x: pass", "f", [(0,), (1,)], SHORT))
    assert states(reports) == ["ok", "timeout"]


@needs_bwrap
def test_a_bomb_costs_its_own_input():
    source = """
import os, signal
def f(x):
    if x == 1:
        while True:
            try: os.fork()
            except OSError: pass
    if x == 2:
        if os.fork() == 0:
            os.setsid()
            while True: pass
    if x == 3:
        with open('/tmp/big', 'wb') as file:
            while True: file.write(b'x' * 2**20)
    if x == 4:
        open('/tmp/probe', 'wb').write(b'x' * 2**20)
    return x
"""
    reports = call(Bubblewrap(), source, "f", [(i,) for i in range(6)], SHORT)
    assert states(reports) == ["ok", "timeout", "ok", "raised", "ok", "ok"]
