"""Models by their name on the Hugging Face hub, as far as they were fetched before.

is_hub_name("org/name"), cached_snapshot("org/name") -> its directory

Nothing is ever downloaded from here: a model's size and licence are the user's to accept.
"""

from __future__ import annotations

import re
from pathlib import Path

from evolute.types import ModelError

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_name(name: str) -> bool:
    """Whether the name has the form of the hub's, organisation/model."""
    return NAME.fullmatch(name) is not None


def cached_snapshot(name: str) -> Path:
    """The snapshot's directory in the local cache. Raises ModelError when there is none."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise ModelError(
            f"{name!r} is no local path, and models by hub name need the package huggingface_hub. "
            f"Run `pip install huggingface_hub`, then `hf download {name}`."
        ) from error
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"{name!r} is neither a local path nor in the cache of the Hugging Face hub, and "
            f"nothing is downloaded unasked. Run `hf download {name}`, then try again."
        ) from error
