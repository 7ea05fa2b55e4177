"""How far does training step back behind those that answer users?

step_back(nice)      of this thread and those it starts
"""

from __future__ import annotations

import os
import sys
import threading


def step_back(nice: int) -> None:
    """Let this thread, and those it starts, yield to the ones that answer users. Linux counts
    niceness by thread; elsewhere nothing is done."""
    if sys.platform == "linux" and nice:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
