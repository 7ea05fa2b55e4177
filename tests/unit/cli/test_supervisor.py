"""A child that dies is started again, and who asks meanwhile is told so. The child here serves two
words and no model; it waits for a file before it says that it is ready."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from evolute.cli import supervisor
from evolute.cli.supervisor import MAX_FAILED, supervise
from evolute.testing import until
from evolute.types.ports import listen

PARENT = """
import sys
from evolute.cli.supervisor import supervise
from evolute.types.ports import listen
from pathlib import Path
script = Path(sys.argv[1])
listener = listen("127.0.0.1", 0)
script.with_name("port").write_text(str(listener.getsockname()[1]))
child = [sys.executable, "-c", script.read_text(), *sys.argv[1:]]
sys.exit(supervise(listener, child, lambda url: print("ready", url, flush=True)))
"""
CHILD = """
import os, sys, time
from evolute.cli.supervisor import Worker
folder = os.path.dirname(sys.argv[1])
worker = Worker.of(sys.argv[-1])
worker.watch()
with open(f"{folder}/pids", "a") as file:
    file.write(f"{os.getpid()}\\n")
for _ in range(6000):
    if os.path.exists(f"{folder}/go"):
        break
    time.sleep(0.01)
worker.is_ready()
worker.listener.setblocking(True)
while True:
    one, _ = worker.listener.accept()
    one.recv(65536)
    one.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\nserved")
    one.close()
"""


class Family:
    """A parent in a process of its own, its child, and the files by which they are steered."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "child.py").write_text(CHILD)
        words = [sys.executable, "-c", PARENT, str(folder / "child.py")]
        self.parent = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        until(lambda: (folder / "pids").exists() and self.pids())
        self.port = int((folder / "port").read_text())

    def pids(self):
        return [int(line) for line in (self.folder / "pids").read_text().splitlines()]

    def let_go(self):
        (self.folder / "go").touch()

    def hold(self):
        (self.folder / "go").unlink()

    def ask(self, path="/v1/completions"):
        """Status line and body; never refused."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as one:
            one.sendall(f"POST {path} HTTP/1.1\r\nContent-Length: 99\r\n\r\n{{".encode())
            got = b""
            while piece := one.recv(65536):
                got += piece
        head, _, body = got.decode().partition("\r\n\r\n")
        return head, body


@pytest.fixture
def family(tmp_path):
    made = Family(tmp_path)
    yield made
    made.parent.kill()
    made.parent.communicate(timeout=20)
    for pid in made.pids():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_killed_child_is_started_again_and_nobody_is_refused(family):
    head, body = family.ask()
    assert head.startswith("HTTP/1.1 503") and "Retry-After: " in head
    assert json.loads(body)["error"]["code"] == "starting"
    family.let_go()
    assert family.parent.stdout.readline().startswith("ready http://127.0.0.1:")
    until(lambda: family.ask()[1] == "served")
    assert [family.ask()[1] for _ in range(20)] == ["served"] * 20, "the parent keeps out of it"
    for death in (1, 2):
        family.hold()
        os.kill(family.pids()[-1], signal.SIGKILL)
        until(lambda: len(family.pids()) == death + 1)  # noqa: B023
        head, body = family.ask()
        assert head.startswith("HTTP/1.1 503") and "Retry-After: " in head
        assert f"restart {death}" in json.loads(body)["error"]["message"]
        assert json.loads(family.ask("/health")[1])["status"] == "restarting"
        anthropic = json.loads(family.ask("/v1/messages")[1])
        assert anthropic["type"] == "error" and anthropic["error"]["type"] == "overloaded_error"
        family.let_go()
        until(lambda: family.ask()[1] == "served")


def test_silence_and_noise_do_not_keep_others_from_their_answer(family):
    held = [socket.create_connection(("127.0.0.1", family.port)) for _ in range(50)]
    for one in held[:25]:
        one.sendall(b"\x16\x03\x01" * 100)
    assert family.ask()[0].startswith("HTTP/1.1 503")
    for one in held:
        one.close()


def test_sigterm_reaches_the_child_and_ends_both(family):
    family.let_go()
    family.parent.stdout.readline()
    (pid,) = family.pids()
    family.parent.send_signal(signal.SIGTERM)
    assert family.parent.wait(timeout=30) == 128 + signal.SIGTERM
    until(lambda: not alive(pid))
    assert family.pids() == [pid], "it is not started again"


def test_a_child_ends_when_its_parent_is_killed(family):
    family.let_go()
    family.parent.stdout.readline()
    (pid,) = family.pids()
    family.parent.kill()
    family.parent.wait(timeout=30)
    until(lambda: not alive(pid))


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def lives(tmp_path, code):
    """The exit code of a family of which each child runs `code`, and how many children it had."""
    log = tmp_path / "lives"
    text = f"""
import sys
from evolute.cli.supervisor import Worker
from evolute.testing import until
worker = Worker.of(sys.argv[-1])
with open({str(log)!r}, "a") as file:
    file.write("x")
{code}
"""
    ready = []
    child = [sys.executable, "-c", text]
    found = supervise(listen("127.0.0.1", 0), child, ready.append)
    return found, len(log.read_text()), len(ready)


def test_a_first_start_that_fails_is_not_repeated(tmp_path):
    assert lives(tmp_path, "sys.exit(2)") == (2, 1, 0)


def test_an_end_that_was_meant_is_one(tmp_path):
    assert lives(tmp_path, "worker.is_ready(); sys.exit(0)") == (0, 1, 1)


def test_starts_that_fail_in_a_row_are_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 0.001)
    code = "worker.restarts or worker.is_ready(); sys.exit(3)"
    assert lives(tmp_path, code) == (3, 1 + MAX_FAILED, 1)


def test_a_child_that_served_counts_as_well_again(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 0.001)
    code = "worker.restarts % 2 or worker.is_ready(); sys.exit(3 * (worker.restarts < 8))"
    assert lives(tmp_path, code) == (0, 9, 1)


def test_who_is_accepted_as_the_gate_closes_has_an_answer():
    async def run():
        parent = supervisor._Supervisor(listener, [], print, "")
        parent._open_gate()
        with socket.create_connection(listener.getsockname()) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            parent._accept()
            parent._close_gate()
            await asyncio.wait_for(asyncio.gather(*parent.answers), 20)
            client.settimeout(20)
            return client.recv(4096)

    with listen("127.0.0.1", 0) as listener:
        assert asyncio.run(run()).startswith(b"HTTP/1.1 503")
