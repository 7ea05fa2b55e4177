"""Every failure in the one JSON shape that the API's clients read.

envelope(error)             OpenAI's: {"error": {"message", "type", "param", "code"}}
anthropic_envelope(error)   Anthropic's: {"type": "error", "error": {"type", "message"}}
response(error, path)       the answer to a request of that path
install(app)                handlers for our errors, unknown paths and what nobody foresaw
"""

from __future__ import annotations

import logging
import math
import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from evolute.types import (
    BadGrammar,
    DeadlineMissed,
    EvoluteError,
    FinishReason,
    OutOfCapacity,
    Output,
    PromptTooLong,
    RequestError,
)

logger = logging.getLogger(__name__)

TYPE_BY_STATUS = {401: "authentication_error", 429: "rate_limit_error"}
ANTHROPIC_TYPE_BY_STATUS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
# What Anthropic's client reads as: send the whole conversation each time, as ever
NO_THREADS = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
ANTHROPIC_PATH = "/v1/messages"


class FieldError(RequestError):
    """A field of the body, or the body itself, that cannot be accepted."""

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.status = status


def not_supported(field: str, reason: str, *, status: int = 400) -> FieldError:
    """A valid field that this server cannot honour, with its name."""
    text = f"{field!r} is not supported: {reason}"
    return FieldError(text, param=field, code="not_supported", status=status)


def unreadable(field: str, kind: str) -> FieldError:
    """Pictures and sounds: 501, as for the endpoints that another kind of model would have."""
    return not_supported(field, f"this model reads text, not {kind}.", status=501)


def status_of(error: Exception) -> int:
    return error.status if isinstance(error, EvoluteError) else 500


def envelope(error: Exception) -> dict[str, Any]:
    """The body for `error`. What is not ours is not shown: its text may hold anything."""
    status = status_of(error)
    kind = TYPE_BY_STATUS.get(status)
    if kind is None:
        kind = "invalid_request_error" if status < 500 or status == 501 else "server_error"
    return {
        "error": {
            "message": _shown(error),
            "type": kind,
            "param": getattr(error, "param", None),
            "code": getattr(error, "code", None) or _code(error),
        }
    }


def anthropic_envelope(error: Exception) -> dict[str, Any]:
    status = status_of(error)
    other = "invalid_request_error" if status < 500 or status == 501 else "api_error"
    kind = ANTHROPIC_TYPE_BY_STATUS.get(status, other)
    told: dict[str, Any] = {"type": kind, "message": _shown(error)}
    if getattr(error, "param", None) == "thread":
        told["details"] = NO_THREADS
    return {"type": "error", "error": told}


def raise_if_failed(output: Output) -> None:
    """An output that the engine could not finish, or in time not begin, is an error of the server,
    not a text."""
    if output.finish_reason is FinishReason.DEADLINE:
        raise DeadlineMissed(output.error or "too late.", output.retry_after_s or 1.0)
    if output.is_refused:
        raise BadGrammar(output.error or "the grammar failed.")
    if output.finish_reason is FinishReason.ERROR:
        raise EvoluteError(output.error or "the engine failed on this request; see its log.")


def response(error: Exception, path: str = "") -> JSONResponse:
    headers = {}
    if isinstance(error, OutOfCapacity):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if status_of(error) == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status_of(error) == 501:
        headers["x-should-retry"] = "false"  # OpenAI's and Anthropic's clients try other 5xx again
    shape = anthropic_envelope if path.startswith(ANTHROPIC_PATH) else envelope
    return JSONResponse(shape(error), status_of(error), headers)


def install(app: FastAPI) -> None:
    async def ours(request: Request, error: Exception) -> JSONResponse:
        return response(error, request.url.path)

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        text = f"{request.method} {request.url.path}: {error.detail}."
        refusal = FieldError(text, code="http_error", status=error.status_code)
        return response(refusal, request.url.path)

    async def query(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        name = str(first["loc"][-1])
        return response(FieldError(f"{name}: {first['msg']}.", param=name), request.url.path)

    async def deep(request: Request, error: Exception) -> JSONResponse:
        text = "the body is nested too deeply; make it flatter."
        return response(FieldError(text, code="bad_json"), request.url.path)

    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        answer = response(error, request.url.path)
        answer.headers["Connection"] = "close"  # starlette re-raises, then uvicorn hangs up
        return answer

    app.add_exception_handler(EvoluteError, ours)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, query)
    app.add_exception_handler(RecursionError, deep)
    app.add_exception_handler(Exception, unforeseen)


def _shown(error: Exception) -> str:
    return str(error) if isinstance(error, EvoluteError) else "internal error; see the log."


def _code(error: Exception) -> str:
    if isinstance(error, PromptTooLong):
        return "context_length_exceeded"
    name = type(error).__name__ if isinstance(error, EvoluteError) else "InternalError"
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
