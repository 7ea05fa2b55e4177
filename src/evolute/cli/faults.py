"""How does a program end? Expected errors become one line and an exit code, not a traceback."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

FULL = (errno.ENOSPC, errno.EDQUOT)


def exit_by(program: Callable[[], object]) -> None:
    """Run it. Exits with 2 for settings that cannot work, 1 for other failures, 130 for Ctrl-C."""
    from evolute.types import ConfigError, EvoluteError

    try:
        program()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except EvoluteError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if error.errno not in FULL:
            raise
        print(f"error: {error}. Free some space, then repeat or resume.", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
