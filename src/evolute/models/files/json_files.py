"""Text and JSON files of a Hugging Face directory, read without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evolute.types import ModelError


def read_text(path: Path) -> str:
    """A text file of the directory. Raises ModelError when missing or damaged."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ModelError(f"{path.parent} has no {path.name}; is it a model directory?") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}. Fetch it again.") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of the directory. Raises ModelError when missing or damaged."""
    try:
        value = json.loads(read_text(path))
    except ValueError as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{path} is not readable JSON: {error}. Fetch it again.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object; fetch it again.")
    return value
