"""One program in each sandbox that can be had here: what comes back, and how it ended."""

import asyncio
import gc
import time

import pytest
from sandboxes import needs_bwrap

from evolute.envs.sandbox.bubblewrap import Bubblewrap
from evolute.envs.sandbox.contract import Ending, Sandbox, SandboxLimits, Script
from evolute.envs.sandbox.unsafe import Unprotected
from evolute.envs.sandbox.watch import END_S, closed, drop
from evolute.types import ConfigError

QUICK = SandboxLimits(seconds=10, cpu_seconds=10)
SHORT = SandboxLimits(seconds=0.5, cpu_seconds=5)


@pytest.fixture(params=[pytest.param(Bubblewrap, marks=needs_bwrap), Unprotected])
def sandbox(request):
    return request.param()


def run(sandbox, source, limits=QUICK, **parts):
    return asyncio.run(sandbox.run(Script(source, **parts), limits))


def test_what_it_prints_comes_back(sandbox):
    report = run(sandbox, "import sys; print(1); print('e', file=sys.stderr)")
    assert (report.ending, report.exit_code, report.stdout) == (Ending.EXITED, 0, "1\n")
    assert report.stderr == "e\n" and report.is_ok and report.signal is None
    assert isinstance(sandbox, Sandbox)


def test_stdin_arguments_and_files_arrive(sandbox):
    source = "import sys; print(sys.argv[1:], input(), sys.stdin.read(), open('a.bin','rb').read())"
    report = run(
        sandbox, source, stdin="eins\nzwei ä", arguments=("x", "y z"), files={"a.bin": b"\0\xff"}
    )
    assert report.stdout == "['x', 'y z'] eins zwei ä b'\\x00\\xff'\n"


@pytest.mark.parametrize("code", [1, 3, 137, 255])
def test_an_exit_code_is_no_signal(sandbox, code):
    report = run(sandbox, f"raise SystemExit({code})")
    assert (report.ending, report.exit_code, report.signal) == (Ending.EXITED, code, None)


@pytest.mark.parametrize("number", [6, 9, 11, 15])
def test_a_signal_is_no_exit_code(sandbox, number):
    report = run(sandbox, f"import os; os.kill(os.getpid(), {number})")
    assert (report.ending, report.exit_code, report.signal) == (Ending.SIGNAL, None, number)


def test_a_traceback_shows_the_program_alone(sandbox):
    report = run(sandbox, "def f():\n    return 1 / 0\nf()\n")
    assert report.exit_code == 1
    assert report.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert "return 1 / 0" in report.stderr and "run.py" not in report.stderr
    assert report.stderr.count("File ") == 2


def test_a_syntax_error_is_the_program_s(sandbox):
    report = run(sandbox, "def f(:\n")
    assert report.exit_code == 1 and "SyntaxError" in report.stderr


def test_a_sleeper_is_ended(sandbox):
    began = time.monotonic()
    report = run(sandbox, "print('so far', flush=True)\nimport time\ntime.sleep(60)", SHORT)
    assert (report.ending, report.exit_code) == (Ending.TIMEOUT, None)
    assert report.stdout == "so far\n" and time.monotonic() - began < 30


def test_a_loop_is_ended_by_its_processor_time(sandbox):
    report = run(sandbox, "while True: pass", SandboxLimits(seconds=60, cpu_seconds=1))
    assert report.ending is Ending.TIMEOUT


def test_one_that_ignores_the_first_warning_is_ended_too(sandbox):
    source = "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    report = run(sandbox, source, SandboxLimits(seconds=60, cpu_seconds=1))
    assert report.ending is Ending.TIMEOUT


def test_memory_is_limited(sandbox):
    assert run(sandbox, "x = 'a' * 10**10").ending is Ending.MEMORY


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_is_cut(sandbox, stream):
    source = f"import sys\nwhile True: sys.{stream}.write('x' * 10000)"
    report = run(sandbox, source)
    assert report.ending is Ending.OUTPUT and report.exit_code is None
    assert getattr(report, stream) == "x" * QUICK.max_output_bytes


def test_output_at_the_limit_is_whole(sandbox):
    report = run(sandbox, "print('x' * 99)", SandboxLimits(seconds=10, max_output_bytes=100))
    assert report.is_ok and len(report.stdout) == 100


def test_what_is_no_utf_8_is_replaced(sandbox):
    report = run(sandbox, "import os; os.write(1, b'a\\xffb')")
    assert report.stdout == "a\ufffdb"


def test_a_stdin_that_nobody_reads_blocks_nothing(sandbox):
    assert run(sandbox, "print(1)", stdin="x" * 10**7).stdout == "1\n"


def test_a_stdin_that_a_survivor_holds_open_is_let_go(sandbox):
    source = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    os.closerange(1, 3)\n"
        "    time.sleep(1)\n    os._exit(0)\nprint(1)"
    )
    assert run(sandbox, source, stdin="x" * 10**7).stdout == "1\n"
    gc.collect()  # a pipe still open would warn, and a warning fails


def test_a_pipe_is_dropped_at_once_with_what_nobody_read():
    async def main():
        sleeper = await asyncio.create_subprocess_exec("sleep", "60", stdin=asyncio.subprocess.PIPE)
        try:
            sleeper.stdin.write(b"x" * 10**7)
            drop(sleeper.stdin)
            await closed(sleeper.stdin)
            drop(sleeper.stdin)  # once more does nothing
            return sleeper.returncode, sleeper.stdin.transport.get_write_buffer_size()
        finally:
            sleeper.kill()
            await sleeper.wait()

    began = time.monotonic()
    assert asyncio.run(main()) == (None, 0) and time.monotonic() - began < END_S


def test_a_file_is_limited(sandbox):
    source = "open('a', 'wb').write(b'x' * 3 * 2**20)"
    report = run(sandbox, source, SandboxLimits(seconds=10, disk_mb=2))
    assert report.exit_code == 1 and "OSError: [Errno" in report.stderr


def test_randomness_is_the_same_in_every_run(sandbox):
    source = "import random; print(random.random(), hash('a'), {'b', 'c', 'd', 'e'})"
    assert run(sandbox, source).stdout == run(sandbox, source).stdout


def test_packages_can_be_named(sandbox):
    source = "import typing_extensions as t; print(hasattr(t, 'TypedDict'))"
    assert "ModuleNotFoundError" in run(sandbox, source).stderr
    assert run(sandbox, source, packages=("typing_extensions",)).stdout == "True\n"
    source = "import jinja2; print(jinja2.__name__)"
    assert run(sandbox, source, packages=("jinja2", "markupsafe")).stdout == "jinja2\n"
    with pytest.raises(ConfigError, match="no_such_package"):
        run(sandbox, "1", packages=("no_such_package",))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "a\0b"])
def test_a_file_s_name_is_plain(sandbox, name):
    with pytest.raises(ConfigError, match="plain name"):
        run(sandbox, "1", files={name: b""})


def test_files_larger_than_the_disk_are_refused(sandbox):
    with pytest.raises(ConfigError, match="disk_mb"):
        run(sandbox, "1", SandboxLimits(disk_mb=1), files={"a": bytes(2**20 + 1)})


def test_a_cancelled_run_leaves_no_process(sandbox):
    async def main():
        task = asyncio.create_task(sandbox.run(Script("import time; time.sleep(60)"), QUICK))
        for delay in (0.0, 0.01, 0.05, 0.3):
            await asyncio.sleep(delay)
            if delay == 0.3:
                task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 30


def test_many_at_once_keep_apart(sandbox):
    async def main():
        scripts = [Script(f"import time; time.sleep(0.05); print({i})") for i in range(20)]
        return await asyncio.gather(*(sandbox.run(script, QUICK) for script in scripts))

    assert [r.stdout for r in asyncio.run(main())] == [f"{i}\n" for i in range(20)]


def test_a_thread_that_outlives_main_is_waited_for(sandbox):
    source = (
        "import threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('late'))).start()\nprint('main')"
    )
    assert run(sandbox, source).stdout == "main\nlate\n"
