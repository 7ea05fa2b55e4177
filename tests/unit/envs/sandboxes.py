"""Tests that need bubblewrap are skipped, with the reason, where it is missing or cannot work."""

import pytest

from evolute.testing.sandboxes import why_no_bubblewrap

needs_bwrap = pytest.mark.skipif(bool(why_no_bubblewrap()), reason=why_no_bubblewrap() or "fine")
