"""Values of a file's header, read as numbers; an error names the key and the file.

Fields(values, "config.json").whole("hidden_size")   an int
Fields(values, "config.json").real("rms_norm_eps", 1e-6)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evolute.types import ModelError


@dataclass(frozen=True, slots=True)
class Fields:
    """`prefix` stands before every key, as "llama." does in GGUF files."""

    values: Mapping[str, Any]
    where: str
    prefix: str = ""

    def whole(self, key: str, default: int | None = None) -> int:
        """An int. Raises ModelError when it is missing without a default, or no int."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value % 1 != 0:
            raise self._wrong(key, value, "a whole number")
        return int(value)

    def real(self, key: str, default: float | None = None) -> float:
        """A float. Raises ModelError when it is missing without a default, or no number."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, value, "a number")
        return float(value)

    def truth(self, key: str, default: bool = False) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def _value(self, key: str, default: Any) -> Any:
        value = self.values.get(self.prefix + key)
        value = default if value is None else value
        if value is None:
            raise ModelError(
                f"{self.where} lacks {self.prefix + key!r}; add it, or fetch the model again."
            )
        return value

    def _wrong(self, key: str, value: Any, expected: str) -> ModelError:
        text = repr(value) if len(repr(value)) < 60 else repr(value)[:57] + "..."
        return ModelError(
            f"{self.where}: {self.prefix + key!r} is {text}, expected {expected}; fetch the model "
            "again."
        )
