"""How are requests sent to an HTTP endpoint, and what does a refusal mean?

    Transport(url, headers, ...)
    await transport.send(method, path, body) -> an answer of status 200, its body unread
    await transport.json(method, path, body) -> its object
    async for object in transport.events(path, body)
    failure(body, status, retry_after)       -> the exception that a refusal stands for

Only what cannot have started is tried again, `max_retries` times: a refused connection, 429 and
503, after what Retry-After says. An answer that breaks off is a BackendError.
"""

from __future__ import annotations

import asyncio
import json
import weakref
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx

from evolute.types import (
    BackendError,
    BadGrammar,
    DeadlineMissed,
    NotSupported,
    OutOfCapacity,
    PromptTooLong,
    RequestError,
    UnknownAdapter,
)

MAX_WAIT_S = 5.0  # between two tries, whatever Retry-After says


class Transport:
    """Connections to one endpoint, those of each event loop apart; close each by `aclose`."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = 600.0,
        max_retries: int = 3,
        max_connections: int | None = None,
        verify: Any = True,
    ) -> None:
        self.url = url
        self._headers = dict(headers or {})
        # with a limit, waiting for a connection is bounded by the timeouts of those ahead
        self._timeout = httpx.Timeout(timeout_s, connect=10.0, pool=None)
        # what is not encrypted needs no certificates, whose loading takes 25 ms
        self._max_retries, self._verify = max_retries, verify if url[:5] == "https" else False
        self._limits = httpx.Limits(
            max_connections=max_connections, max_keepalive_connections=max_connections or 64
        )
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = (
            weakref.WeakKeyDictionary()
        )
        self.num_retries = 0

    async def send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> httpx.Response:
        """Raises what the server refused with. The caller closes the response."""
        for attempt in range(self._max_retries + 1):
            try:
                response = await self._send(method, path, body)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                last: Exception = self.failed(error)
            except httpx.HTTPError as error:
                raise self.failed(error) from error
            else:
                if response.status_code == 200:
                    return response
                last = await _refusal(response)
                if not isinstance(last, OutOfCapacity) or isinstance(last, DeadlineMissed):
                    raise last
            if attempt < self._max_retries:
                self.num_retries += 1
                await asyncio.sleep(_wait_s(last, attempt))
        raise last

    async def json(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Raises BackendError for an answer that is no JSON object."""
        return _object(await self.value(method, path, body))

    async def value(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Any JSON."""
        response = await self.send(method, path, body)
        try:
            await response.aread()
        except httpx.HTTPError as error:
            raise self.failed(error) from error
        finally:
            await response.aclose()
        return _parsed(response.text)

    async def events(
        self, path: str, body: Mapping[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The objects of a stream of server-sent events, up to [DONE] or the end."""
        response = await self.send("POST", path, body)
        try:
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    return
                if line.startswith("data:"):
                    yield _object(_parsed(line[5:]))
        except httpx.HTTPError as error:
            raise self.failed(error) from error
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def failed(self, error: httpx.HTTPError) -> BackendError:
        reason = str(error) or type(error).__name__
        return BackendError(f"{self.url} did not answer: {reason}. Is the server running?")

    # -- internals ---------------------------------------------------------------

    async def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
        client = self._client()
        return await client.send(client.build_request(method, path, json=body), stream=True)

    def _client(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._clients[loop] = httpx.AsyncClient(
                base_url=self.url,
                headers=self._headers,
                timeout=self._timeout,
                limits=self._limits,
                verify=self._verify,
                trust_env=False,  # a proxy from the environment is not meant for our servers
            )
        return self._clients[loop]


def failure(body: Mapping[str, Any], status: int, retry_after: str | None = None) -> Exception:
    """The exception for an error body: the server's own class where the status tells."""
    error = body.get("error")
    error = error if isinstance(error, Mapping) else {"message": str(error or body)}
    text, code = str(error.get("message") or "no message"), error.get("code")
    if status in (429, 503):
        known = retry_after is not None and retry_after.isdecimal()
        kind = DeadlineMissed if code == "deadline_missed" else OutOfCapacity
        return kind(text, float(retry_after or 1) if known else 1.0)
    if code == "context_length_exceeded":
        return PromptTooLong(text)
    if code == "bad_grammar":
        return BadGrammar(text)
    if status == 404:
        return UnknownAdapter(text)
    if status == 501 or code == "not_supported":
        return NotSupported(text)
    if status in (400, 413, 422):
        return RequestError(text)
    return BackendError(f"the endpoint failed (status {status}): {text}")


# -- internals ---------------------------------------------------------------


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        short = text[:120]
        raise BackendError(
            f"the endpoint answered with something that is no JSON: {short!r}."
        ) from None


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        short = str(value)[:120]
        raise BackendError(f"the endpoint answered with something that is no object: {short!r}.")
    return value


async def _refusal(response: httpx.Response) -> Exception:
    """What a status other than 200 means to the caller."""
    try:
        raw = await response.aread()
    except httpx.HTTPError:
        raw = b""
    finally:
        await response.aclose()
    try:
        body = json.loads(raw)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        body = {"error": {"message": raw[:200].decode(errors="replace")}}
    return failure(body, response.status_code, response.headers.get("retry-after"))


def _wait_s(error: Exception, attempt: int) -> float:
    if isinstance(error, OutOfCapacity):
        return min(error.retry_after_s, MAX_WAIT_S)
    return min(0.1 * 2.0**attempt, MAX_WAIT_S)
