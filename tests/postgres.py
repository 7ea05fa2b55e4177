"""A PostgreSQL server of the tests' own, where the machine has the program."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

START_S = 60.0


class Server:
    """`url` names its database; `stop()` kills it, `start()` brings it back as it was."""

    def __init__(self, directory):
        self._programs, self._data = find_programs(), directory / "data"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"postgresql://evolute@127.0.0.1:{self.port}/postgres"
        self._process = None
        os.chmod(directory, 0o777)
        self._run("initdb", "-D", self._data, "-U", "evolute", "-A", "trust", "--no-sync")

    def start(self):
        words = ["-D", self._data, "-p", str(self.port), "-k", "", "-h", "127.0.0.1", "-F"]
        self._process = subprocess.Popen(
            [self._programs / "postgres", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=_user(),
            cwd="/",
        )
        end = time.monotonic() + START_S
        while self._run("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port), check=False):
            assert time.monotonic() < end, "PostgreSQL does not start"
            time.sleep(0.05)

    def stop(self):
        """At once: connections are cut."""
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(3)  # SIGQUIT: PostgreSQL's immediate shutdown
            self._process.wait(START_S)
            self._process = None

    def _run(self, name, *words, check=True):
        done = subprocess.run(
            [self._programs / name, *words],
            check=check,
            capture_output=True,
            user=_user(),
            timeout=START_S,
            cwd="/",
        )
        return done.returncode


def find_programs():
    for found in (shutil.which("initdb"), shutil.which("postgres")):
        if found and (folder := Path(found).resolve().parent / "initdb").exists():
            return folder.parent
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "initdb").exists():
            return folder
    pytest.skip("no PostgreSQL is installed (Debian: apt-get install postgresql)")
    raise AssertionError


def _user():
    """PostgreSQL does not run as root."""
    if os.getuid():
        return None
    names = {one.pw_name for one in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@contextlib.contextmanager
def postgres():
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as place:
        server = Server(Path(place))
        server.start()
        try:
            yield server
        finally:
            server.stop()
