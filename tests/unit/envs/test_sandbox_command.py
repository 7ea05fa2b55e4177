"""The command line of bubblewrap, without running it."""

import pytest

from evolute.envs.sandbox import build
from evolute.envs.sandbox.bubblewrap import MISSING, Bubblewrap, Identity, command
from evolute.envs.sandbox.contract import SandboxLimits, Script
from evolute.envs.sandbox.unsafe import Unprotected
from evolute.envs.sandbox.watch import Launch, header_of, rlimits
from evolute.types import ConfigError

LIMITS = SandboxLimits(disk_mb=3)


def words(uid, **parts):
    return command(Script("print(1)", **parts), LIMITS, Identity(uid), 7, 8)


def after(found, name):
    return [found[k + 1] for k, word in enumerate(found) if word == name]


@pytest.mark.parametrize("uid", [None, 1_000_000_064])
def test_nothing_is_shared_and_only_three_small_disks_can_be_written(uid):
    found = words(uid)
    for name in ("--unshare-net", "--unshare-pid", "--unshare-ipc", "--die-with-parent"):
        assert name in found
    assert not {"--bind", "--dev-bind", "--share-net", "--bind-try"} & set(found)
    assert after(found, "--tmpfs") == ["/box", "/tmp", "/dev/shm"]
    assert after(found, "--size") == [str(3 * 2**20)] * 3
    assert after(found, "--remount-ro") == ["/dev", "/"]
    assert found.index("--remount-ro") > found.index("/dev/shm")
    assert after(found, "--info-fd") == ["7"] and after(found, "--seccomp") == ["8"]
    assert "print(1)" not in found  # the program travels by stdin


def test_root_drops_to_a_user_of_its_own_and_others_get_a_namespace():
    root, other = words(1_000_000_064), words(None)
    assert after(root, "--cap-drop") == ["ALL"] and "--unshare-user" not in root
    assert after(root, "--cap-add") == ["CAP_SETUID", "CAP_SETGID"]
    assert "--unshare-user" in other and "--disable-userns" in other and "--cap-add" not in other


def test_limits_as_the_runner_is_told():
    limits = SandboxLimits(cpu_seconds=1.5, memory_mb=10, max_processes=4, disk_mb=2)
    told = {name: (soft, hard) for name, soft, hard in rlimits(limits, own_processes=3)}
    assert told["RLIMIT_CPU"] == (2, 3) and told["RLIMIT_AS"] == (10 * 2**20,) * 2
    assert told["RLIMIT_NPROC"] == (7, 7) and told["RLIMIT_FSIZE"] == (2 * 2**20,) * 2
    header = header_of(Launch([], "/box", 5), Script("x", files={"a": b"1"}), limits)
    assert header["uid"] == 5 and header["files"] == {"program.py": b"x", "a": b"1"}


def test_without_bubblewrap_it_is_refused_or_said(monkeypatch, capsys):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(build, "_warned", False)
    with pytest.raises(ConfigError, match="apt-get install bubblewrap"):
        build.make_sandbox()
    assert "--unsafe-no-sandbox" in MISSING
    for _ in range(2):
        sandbox = build.make_sandbox(allow_unsafe=True)
        assert isinstance(sandbox, Unprotected) and not sandbox.features.isolates
    assert capsys.readouterr().err.count("unprotected") == 1


def test_root_without_seccomp_is_refused(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: "/bin/true")
    monkeypatch.setattr("evolute.envs.sandbox.bubblewrap.filter_fd", lambda: None)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(ConfigError, match="libseccomp"):
        Bubblewrap()
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert not Bubblewrap().features.seccomp


@pytest.mark.parametrize("concurrency", [0, 65])
def test_concurrency_has_bounds(concurrency):
    with pytest.raises(ConfigError, match="concurrency"):
        Bubblewrap(concurrency)
