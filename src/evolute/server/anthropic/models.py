"""The models of GET /v1/models as Anthropic's clients read them.

is_anthropic(request)    both APIs have this path; theirs sends `anthropic-version`
model_info(card), model_page(cards)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from fastapi import Request


def is_anthropic(request: Request) -> bool:
    return "anthropic-version" in request.headers


def model_info(card: Mapping[str, Any]) -> dict[str, Any]:
    """One of our cards (`ModelNames`) in their form."""
    context = card["max_model_len"]
    return {
        "type": "model",
        "id": card["id"],
        "display_name": card["id"],
        "created_at": datetime.fromtimestamp(card["created"], UTC).isoformat(),
        "lifecycle": "active",
        "max_input_tokens": context,
        "max_tokens": context,
    }


def model_page(cards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All of them on one page."""
    return {
        "data": [model_info(card) for card in cards],
        "has_more": False,
        "first_id": cards[0]["id"],
        "last_id": cards[-1]["id"],
    }
