"""Tests that need bubblewrap: skipped where it is not installed, but never in CI."""

import os
import shutil

import pytest

needs_bwrap = pytest.mark.skipif(
    shutil.which("bwrap") is None and os.environ.get("CI", "").lower() not in ("1", "true"),
    reason="bubblewrap is not installed (Debian: apt-get install bubblewrap, or make system-deps)",
)
