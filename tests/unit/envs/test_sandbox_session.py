"""One sandbox for a whole episode: what stays, what ends, what is refused."""

import asyncio
import os

import pytest
from sandboxes import needs_bwrap

from evolute.envs.sandbox import (
    Bubblewrap,
    Command,
    Ending,
    FileRefused,
    SandboxLimits,
    shell,
)
from evolute.types import ConfigError, SandboxError

pytestmark = needs_bwrap
SMALL = SandboxLimits(
    seconds=5, cpu_seconds=5, memory_mb=256, max_processes=16, disk_mb=4, max_output_bytes=1000
)


def in_session(play, files=None, limits=SMALL):
    async def main():
        async with Bubblewrap(1).open(limits, files) as session:
            return await play(session)

    return asyncio.run(main())


def test_files_stay_and_processes_do_not():
    async def play(session):
        first = await session.run(shell("echo hi > a; mkdir d; cd d; sleep 50 & echo started"))
        second = await session.run(shell("cat ../a; pwd; ps -e -o comm=", first.folder))
        return first, second

    first, second = in_session(play)
    assert (first.ending, first.exit_code, first.stdout) == (Ending.EXITED, 0, "started\n")
    assert first.folder == "/box/home/d"
    assert second.stdout.startswith("hi\n/box/home/d\n") and "sleep" not in second.stdout


def test_streams_are_apart_unless_merged():
    async def play(session):
        apart = await session.run(Command(("sh", "-c", "echo o; echo e >&2")))
        fed = await session.run(Command(("cat",), stdin=b"x" * 300_000))
        return apart, fed

    apart, fed = in_session(play)
    assert (apart.stdout, apart.stderr) == ("o\n", "e\n")
    assert fed.num_bytes == 300_000 and fed.is_ok
    assert "[... 299000 bytes left out ...]" in fed.stdout and len(fed.stdout) < 1100


def test_every_way_to_end_is_told():
    async def play(session):
        return [
            await session.run(command)
            for command in (
                shell("exit 7"),
                shell("kill -9 $$"),
                shell("sleep 5", seconds=0.2),
                shell("yes"),
                Command(("no-such-program",)),
                Command(("python3", "-S", "-c", "x = bytearray(10**9)")),
                shell("a\0b"),
            )
        ]

    found = in_session(play)
    assert [(one.ending, one.exit_code, one.signal) for one in found] == [
        (Ending.EXITED, 7, None),
        (Ending.SIGNAL, None, 9),
        (Ending.TIMEOUT, None, None),
        (Ending.OUTPUT, None, None),
        (Ending.EXITED, 127, None),
        (Ending.MEMORY, None, None),
        (Ending.EXITED, 126, None),
    ]
    assert "no-such-program cannot be started" in found[4].stderr


def test_a_program_cannot_end_or_see_the_session():
    async def play(session):
        await session.run(shell("kill -9 -1; kill -9 1; :(){ :|:& };:", seconds=0.5))
        return await session.run(shell("cat /proc/1/environ /proc/1/maps; id -u; echo still here"))

    report = in_session(play)
    assert report.stdout.endswith("still here\n") and "PATH=" not in report.stdout
    assert f"\n{os.getuid()}\n" not in report.stdout or os.getuid() != 0


@pytest.mark.parametrize(
    "spoil",
    [
        "echo hi > a; chmod 000 .",
        "echo hi > a; chmod 000 /box/home; cd /",
        "mkdir d; cd d; echo hi > ../a; chmod 000 . ..",
        "cd /; rm -rf /box/home; mkdir /box/home; echo hi > /box/home/a; chmod 100 /box/home",
        "mkdir d; echo hi > a; cd d; rm -r ../d",
    ],
)
def test_a_program_that_shuts_its_folder_does_not_shut_out_the_next(spoil):
    async def play(session):
        first = await session.run(shell(spoil))
        return await session.run(shell("chmod 700 /box/home; cat /box/home/a", first.folder))

    report = in_session(play)
    assert (report.exit_code, report.stdout) == (0, "hi\n"), report


def test_files_are_read_and_written_inside_the_folder_only():
    async def play(session):
        await session.run(shell("ln -s / root; ln -s a.py inside; mkfifo pipe; mkdir d"))
        refused = {}
        for path in ("root/etc/passwd", "../x", "/etc/passwd", "pipe", "d", "none", "a\0b"):
            for name, work in (("read", session.read(path)), ("write", session.write({path: b""}))):
                try:
                    await work
                except FileRefused as error:
                    refused[name, path] = str(error)
        return (
            refused,
            await session.read("inside"),
            await session.entries(depth=3),
            await session.collect(),
        )

    refused, read, entries, files = in_session(play, {"a.py": b"x = 1\n", "p/q/b.py": b""})
    assert {path for name, path in refused if name == "read"} == {
        "root/etc/passwd", "../x", "/etc/passwd", "pipe", "d", "none", "a\0b",
    }  # fmt: skip
    assert {path for name, path in refused if name == "write"} == {
        "root/etc/passwd", "../x", "/etc/passwd", "pipe", "d", "a\0b",
    }  # fmt: skip
    assert "outside" in refused["read", "../x"] and "does not exist" in refused["read", "none"]
    assert read == b"x = 1\n"
    assert {"a.py", "p/", "p/q/", "p/q/b.py", "root", "pipe"} <= set(entries)
    assert files == {"a.py": b"x = 1\n", "p/q/b.py": b"", "none": b""}


def test_a_full_disk_loses_nothing():
    async def play(session):
        await session.run(shell("head -c 100000000 /dev/zero > big"))
        with pytest.raises(FileRefused, match="space"):
            await session.write({"a.py": b"y" * 100_000})
        return await session.read("a.py")

    assert in_session(play, {"a.py": b"x = 1\n"}) == b"x = 1\n"


def test_a_cancelled_call_costs_that_call_only():
    async def play(session):
        task = asyncio.create_task(session.run(shell("sleep 0.3; echo late")))
        await asyncio.sleep(0.1)
        task.cancel()
        report = await session.run(shell("echo next"))
        return task, report

    task, report = in_session(play)
    assert task.cancelled() and report.stdout == "next\n"


def test_calls_at_once_wait_for_each_other():
    async def play(session):
        return await asyncio.gather(*(session.run(shell(f"echo {k}")) for k in range(8)))

    assert [one.stdout for one in in_session(play)] == [f"{k}\n" for k in range(8)]


def test_a_closed_session_says_so():
    async def main():
        async with Bubblewrap(1).open(SMALL) as session:
            pass
        await session.close()
        with pytest.raises(SandboxError, match="closed"):
            await session.run(shell("true"))

    asyncio.run(main())


def test_closing_ends_a_running_call():
    async def play(session):
        task = asyncio.create_task(session.run(shell("sleep 50", seconds=60)))
        await asyncio.sleep(0.1)
        await session.close()
        with pytest.raises(SandboxError):
            await asyncio.wait_for(task, 10)

    in_session(play)


def test_files_that_do_not_fit_are_refused_at_the_start():
    with pytest.raises(ConfigError, match="disk_mb"):
        in_session(None, {"big": b"x" * 5_000_000})


def test_whether_a_text_is_python_is_told_from_inside():
    async def play(session):
        return [
            await session.parse(text, "a.py")
            for text in (b"x = 1", b"def f(:\n", b"(" * 5000, b"-" * 200_000 + b"1", b"\xff", b"\0")
        ]

    good, bad, *worse = in_session(play)
    assert good == "" and bad.startswith("line 1: ") and all(worse)
