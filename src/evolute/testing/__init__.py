"""What tests stand on: doubles of the seams, public so that users can test with them too."""

from evolute.testing.backends import ScriptedBackend
from evolute.testing.clock import ManualClock
from evolute.testing.embedders import HashingEmbedder
from evolute.testing.sandboxes import ScriptedSandbox
from evolute.testing.texts import ScriptedTextBackend
from evolute.testing.tokenizers import ByteTokenizer
from evolute.testing.toolworlds import PlainTool, SumTask, SumWorld, tool_of
from evolute.testing.waiting import until

__all__ = [
    "ByteTokenizer",
    "HashingEmbedder",
    "ManualClock",
    "PlainTool",
    "ScriptedBackend",
    "ScriptedSandbox",
    "ScriptedTextBackend",
    "SumTask",
    "SumWorld",
    "tool_of",
    "until",
]
