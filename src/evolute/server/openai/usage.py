"""Token counts of a stream: at its end, and in every chunk when asked for."""

from __future__ import annotations

from collections import Counter
from typing import Any

from evolute.server.generation import Call, usage
from evolute.server.openai.bodies import StreamOptions
from evolute.types import Delta, Output


class RunningUsage:
    """Counts deltas as they pass; `tail` is what each chunk carries besides its choices."""

    def __init__(self, call: Call, options: StreamOptions | None) -> None:
        self.is_wanted = bool(options and options.include_usage)
        self._is_continuous = bool(options and options.continuous_usage_stats)
        self._call = call
        self._num_prompt = sum(len(request.prompt) for request in call.requests)
        self._num_tokens: Counter[int] = Counter()  # by choice
        self._outputs: dict[int, Output] = {}

    def add(self, index: int, delta: Delta) -> None:
        self._num_tokens[index] += len(delta.token_ids)
        if delta.output is not None:
            self._outputs[index] = delta.output

    def tail(self) -> dict[str, Any]:
        if self._is_continuous:
            num_tokens = self._num_tokens.total()
            return {
                "usage": {
                    "prompt_tokens": self._num_prompt,
                    "completion_tokens": num_tokens,
                    "total_tokens": self._num_prompt + num_tokens,
                }
            }
        return {"usage": None} if self.is_wanted else {}

    def total(self) -> dict[str, Any]:
        """When every choice has ended."""
        size = self._call.num_samples
        ordered = [self._outputs[index] for index in sorted(self._outputs)]
        return usage([ordered[i : i + size] for i in range(0, len(ordered), size)])
