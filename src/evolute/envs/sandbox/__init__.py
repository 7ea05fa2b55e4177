"""Running programs that nobody has read: held, limited, and gone when they end."""

from evolute.envs.sandbox.bubblewrap import Bubblewrap
from evolute.envs.sandbox.build import make_sandbox
from evolute.envs.sandbox.calls import CallReport, call_all, call_each
from evolute.envs.sandbox.contract import (
    Ending,
    RunReport,
    Sandbox,
    SandboxFeatures,
    SandboxLimits,
    Script,
)
from evolute.envs.sandbox.session import (
    Command,
    CommandReport,
    FileRefused,
    Session,
    shell,
)
from evolute.envs.sandbox.unsafe import Unprotected
from evolute.envs.sandbox.values import decode, encode

__all__ = [
    "Bubblewrap",
    "CallReport",
    "Command",
    "CommandReport",
    "Ending",
    "FileRefused",
    "RunReport",
    "Sandbox",
    "SandboxFeatures",
    "SandboxLimits",
    "Script",
    "Session",
    "Unprotected",
    "call_all",
    "call_each",
    "decode",
    "encode",
    "make_sandbox",
    "shell",
]
