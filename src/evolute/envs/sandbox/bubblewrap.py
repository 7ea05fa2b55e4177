"""How is a program that nobody has read held? By bubblewrap, in a sandbox of its own.

    Bubblewrap(concurrency)     a Sandbox; its `open` gives a session
    command(...)                the command line, pure

A program sees a read-only system, three small memory disks, an empty network and its own processes.
Root runs it as a user of its own, since the kernel exempts root from limits on processes; others
run it in a user namespace. Source: bubblewrap 0.8, its manual page.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from evolute.envs.sandbox.contract import RunReport, SandboxFeatures, SandboxLimits, Script
from evolute.envs.sandbox.filters import filter_fd
from evolute.envs.sandbox.session import INSIDE, SESSION_LIMITS, Session, spawn
from evolute.envs.sandbox.slots import Slots
from evolute.envs.sandbox.watch import MIB, RUNNER, Launch, watch
from evolute.types import ConfigError, SandboxError

MISSING = (
    "model-written programs need bubblewrap, which is not installed: apt-get install bubblewrap, "
    "or `make system-deps`; `--unsafe-no-sandbox` runs them unprotected."
)
MAX_CONCURRENCY = 64
MAX_SESSIONS = 128
FIRST_UID = 1_000_000_000
FIRST_SESSION_UID = 1_300_000_000
BOX, PYTHON = "/box", "/py"
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": BOX,
    "TMPDIR": "/tmp",
    "LANG": "C.UTF-8",
    "LD_LIBRARY_PATH": f"{PYTHON}/lib",
    "PYTHONHASHSEED": "0",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
SESSION_ENVIRONMENT = ENVIRONMENT | {
    "PATH": f"{PYTHON}/bin:/usr/bin:/bin",
    "HOME": "/tmp",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONNOUSERSITE": "1",
    "PAGER": "cat",
    "TERM": "dumb",
}
_users = Slots(MAX_CONCURRENCY)  # of the whole process: limits on processes count by user
_session_users = Slots(MAX_SESSIONS)  # apart: a world may run programs while its session is open


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom the program runs as: a user of its own, or in a user namespace (uid None)."""

    uid: int | None

    def own_processes(self, *, stays: bool) -> int:
        """Of bubblewrap and the runner, where they are the same user as the program. Those of a
        sandbox that stays open began before the program's limit counts."""
        if self.uid is not None:
            return 0
        return 1 if stays else 3


class Bubblewrap:
    """Cold sandboxes: one a program, about 40 ms each on a quiet core.

    Raises ConfigError without bubblewrap, and as root without libseccomp: a program that has no
    user namespace around it could make one.
    """

    def __init__(self, concurrency: int = 8) -> None:
        if not 1 <= concurrency <= MAX_CONCURRENCY:
            raise ConfigError(
                f"concurrency is {concurrency}; 1 to {MAX_CONCURRENCY} programs run at once."
            )
        program = shutil.which("bwrap")
        if program is None:
            raise ConfigError(MISSING)
        self._program, self._is_root = program, os.geteuid() == 0
        self._slots = Slots(concurrency)
        self._features = SandboxFeatures(True, _has_seccomp(), _version(program))
        if self._is_root and not self._features.seccomp:
            raise ConfigError(
                "as root, model-written programs need libseccomp, which cannot be loaded: "
                "apt-get install libseccomp2 and pip install pyseccomp, or run as another user."
            )

    @property
    def features(self) -> SandboxFeatures:
        return self._features

    async def run(self, script: Script, limits: SandboxLimits) -> RunReport:
        check(script, limits)
        async with self._slots.held(), _users.held() as user:
            uid = FIRST_UID + MAX_CONCURRENCY * os.getpid() + user if self._is_root else None
            return await self._run(script, limits, Identity(uid))

    @asynccontextmanager
    async def open(
        self, limits: SandboxLimits = SESSION_LIMITS, files: Mapping[str, bytes] | None = None
    ) -> AsyncIterator[Session]:
        """A session with these files (paths below its folder), closed at the end of the block.

        At most 128 are open in a process; further ones wait. Raises ConfigError for files that do
        not fit, SandboxError when it cannot be set up.
        """
        async with _session_users.held() as user:
            uid = FIRST_SESSION_UID + MAX_SESSIONS * os.getpid() + user if self._is_root else None
            with self._launch(Script(""), limits, Identity(uid), stays=True) as launch:
                session = await spawn(launch, limits, files or {})
                try:
                    yield session
                finally:
                    await session.close()

    async def _run(self, script: Script, limits: SandboxLimits, identity: Identity) -> RunReport:
        with self._launch(script, limits, identity) as launch:
            return await watch(launch, script, limits)

    @contextmanager
    def _launch(
        self, script: Script, limits: SandboxLimits, identity: Identity, *, stays: bool = False
    ) -> Iterator[Launch]:
        info, info_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        filters = filter_fd()
        descriptors = (info_end,) if filters is None else (info_end, filters)
        words = command(script, limits, identity, info_end, filters, stays=stays)
        try:
            yield Launch(
                [self._program, *words],
                BOX,
                identity.uid,
                identity.own_processes(stays=stays),
                tuple(f"/packages/{name}" for name in script.packages),
                descriptors=descriptors,
                kill=partial(_kill, info),
            )
        finally:
            for descriptor in (info, *descriptors):
                os.close(descriptor)


def check(script: Script, limits: SandboxLimits) -> None:
    """Raises ConfigError for files that cannot be put into a box."""
    for name in script.files:
        if not name or "/" in name or "\0" in name or name in (".", ".."):
            raise ConfigError(f"{name!r} is no name for a file in a sandbox; use a plain name.")
    size = len(script.source) + sum(len(data) for data in script.files.values())
    if size > limits.disk_mb * MIB:
        raise ConfigError(
            f"{size} bytes of files do not fit a sandbox of {limits.disk_mb} MB; raise disk_mb."
        )


def command(
    script: Script,
    limits: SandboxLimits,
    identity: Identity,
    info_fd: int | None = None,
    filter_fd: int | None = None,
    *,
    stays: bool = False,
) -> list[str]:
    """Arguments of bwrap; the number of the status pipe is still to follow. `stays`: for a
    session."""
    words = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    words += ["--unshare-cgroup-try", "--die-with-parent", "--new-session"]
    words += ["--as-pid-1"] if stays else []
    if identity.uid is None:
        words += ["--unshare-user", "--disable-userns"]
    else:
        words += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    words += ["--hostname", "sandbox", "--clearenv"]
    for name, value in (SESSION_ENVIRONMENT if stays else ENVIRONMENT).items():
        words += ["--setenv", name, value]
    runner = str(INSIDE if stays else RUNNER)
    words += [*_system(), "--ro-bind", sys.base_prefix, PYTHON, "--ro-bind", runner, "/run.py"]
    words += ["--dir", "/packages"] if script.packages else []
    for package in script.packages:
        words += ["--dir", f"/packages/{package}"]
        source = package_path(package)
        words += ["--ro-bind", str(source), f"/packages/{package}/{source.name}"]
    words += ["--proc", "/proc", "--dev", "/dev"]
    for place in (BOX, "/tmp", "/dev/shm"):
        words += ["--size", str(int(limits.disk_mb * MIB)), "--perms", "1777", "--tmpfs", place]
    words += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", BOX]
    words += [] if info_fd is None else ["--info-fd", str(info_fd)]
    words += [] if filter_fd is None else ["--seccomp", str(filter_fd)]
    return [*words, "--", interpreter(), "-s", "-S", "-B", "/run.py"]


def interpreter() -> str:
    """Our own Python, as the sandbox sees it."""
    base = Path(sys.base_prefix).resolve()
    real = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    if real.is_relative_to(base):
        return f"{PYTHON}/{real.relative_to(base)}"
    return f"{PYTHON}/bin/python{sys.version_info.major}.{sys.version_info.minor}"


def package_path(name: str) -> Path:
    """Where an installed package or module lies. Raises ConfigError for one that is not there."""
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or spec.origin is None:
        raise ConfigError(f"the program asks for package {name!r}, which is not installed here.")
    origin = Path(spec.origin)
    return origin.parent if spec.submodule_search_locations else origin


# -- internals ---------------------------------------------------------------


def _system() -> list[str]:
    words: list[str] = []
    for place in SYSTEM:
        if os.path.islink(place):
            words += ["--symlink", os.readlink(place), place]
        elif os.path.isdir(place):
            words += ["--ro-bind", place, place]
    return [*words, "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]


def _kill(info: int, _: int) -> None:
    """End the first process of the sandbox, and with it all others; bwrap then ends by itself.

    Before there is one, bwrap ends when it finds its stdin closed.
    """
    with suppress(BlockingIOError, ValueError, KeyError, ProcessLookupError):
        handle = os.pidfd_open(json.loads(os.read(info, 4096))["child-pid"])
        try:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)


def _has_seccomp() -> bool:
    fd = filter_fd()
    if fd is not None:
        os.close(fd)
    return fd is not None


def _version(program: str) -> str:
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError) as error:
        raise SandboxError(f"{program} --version failed: {error}") from error
    return said.stdout.strip().removeprefix("bubblewrap ")
