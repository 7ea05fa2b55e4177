"""Which system calls are refused to a sandboxed program?

    filter_fd() -> int | None      a descriptor with the filter as bwrap reads it; None: no seccomp

Namespaces already hide files, network and processes; the filter closes doors into the kernel that
a program for tests never needs.
"""

from __future__ import annotations

import errno
import os
import tempfile
from functools import cache

CLONE_NEWUSER = 0x10000000
DENIED = (
    "unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "move_mount", "fsopen",
    "fsmount", "open_tree", "mount_setattr", "ptrace", "process_vm_readv", "process_vm_writev",
    "bpf", "keyctl", "add_key", "request_key", "perf_event_open", "io_uring_setup",
    "io_uring_enter", "io_uring_register", "userfaultfd", "memfd_create", "memfd_secret", "shmget",
    "socket", "open_by_handle_at", "name_to_handle_at", "kexec_load", "kexec_file_load",
    "init_module", "finit_module", "delete_module", "personality", "swapon", "swapoff", "reboot",
    "fanotify_init", "acct", "quotactl", "syslog", "modify_ldt", "vhangup",
)  # fmt: skip


def filter_fd() -> int | None:
    """A new descriptor each time, to be closed by the caller. None where libseccomp is missing."""
    program = _program()
    if program is None:
        return None
    fd = os.memfd_create("filter", os.MFD_CLOEXEC)
    os.write(fd, program)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


# -- internals ---------------------------------------------------------------


@cache
def _program() -> bytes | None:
    try:
        import pyseccomp as seccomp
    except (ImportError, OSError, RuntimeError):
        return None
    rules = seccomp.SyscallFilter(seccomp.ALLOW)
    for name in DENIED:
        try:
            rules.add_rule(seccomp.ERRNO(errno.EPERM), name)
        except (OSError, ValueError):  # a call that this library or processor does not know
            continue
    new_user = seccomp.Arg(0, seccomp.MASKED_EQ, CLONE_NEWUSER, CLONE_NEWUSER)
    rules.add_rule(seccomp.ERRNO(errno.EPERM), "clone", new_user)
    rules.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")  # its flags cannot be seen
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()
