"""Every failure as one JSON shape, the one OpenAI's clients read.

envelope(error) -> {"error": {"message", "type", "param", "code"}}
install(app)       handlers for our errors, unknown paths and what nobody foresaw
"""

from __future__ import annotations

import logging
import math
import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from evolute.types import (
    EvoluteError,
    FinishReason,
    OutOfCapacity,
    Output,
    PromptTooLong,
    RequestError,
)

logger = logging.getLogger(__name__)

TYPE_BY_STATUS = {401: "authentication_error", 429: "rate_limit_error"}


class FieldError(RequestError):
    """A field of the body, or the body itself, that cannot be accepted."""

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.status = status


def not_supported(field: str, reason: str) -> FieldError:
    """A valid field that this build cannot honour: 501 with its name."""
    return FieldError(
        f"{field!r} is not supported: {reason}", param=field, code="not_supported", status=501
    )


def status_of(error: Exception) -> int:
    return error.status if isinstance(error, EvoluteError) else 500


def envelope(error: Exception) -> dict[str, Any]:
    """The body for `error`. What is not ours is not shown: its text may hold anything."""
    status = status_of(error)
    kind = TYPE_BY_STATUS.get(status)
    if kind is None:
        kind = "invalid_request_error" if status < 500 or status == 501 else "server_error"
    message = str(error) if isinstance(error, EvoluteError) else "internal error; see the log."
    return {
        "error": {
            "message": message,
            "type": kind,
            "param": getattr(error, "param", None),
            "code": getattr(error, "code", None) or _code(error),
        }
    }


def raise_if_failed(output: Output) -> None:
    """An output that the engine could not finish is an error of the server, not a text."""
    if output.finish_reason is FinishReason.ERROR:
        raise EvoluteError(output.error or "the engine failed on this request; see its log.")


def response(error: Exception) -> JSONResponse:
    headers = {}
    if isinstance(error, OutOfCapacity):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if status_of(error) == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(envelope(error), status_of(error), headers)


def install(app: FastAPI) -> None:
    async def ours(request: Request, error: Exception) -> JSONResponse:
        return response(error)

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        text = f"{request.method} {request.url.path}: {error.detail}."
        return response(FieldError(text, code="http_error", status=error.status_code))

    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        return response(error)  # starlette logs and re-raises it after this

    app.add_exception_handler(EvoluteError, ours)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unforeseen)


def _code(error: Exception) -> str:
    if isinstance(error, PromptTooLong):
        return "context_length_exceeded"
    name = type(error).__name__ if isinstance(error, EvoluteError) else "InternalError"
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
