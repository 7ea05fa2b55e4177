"""A model behind HTTP as a `Backend`.

    HttpBackend(url, model)                          an Evolute server
    HttpBackend(url, model, tokenizer, api_key=...)  any OpenAI-compatible endpoint

Which of the two it talks to is asked once (GET /v1/models). Against our own server nothing is
lost: token ids, log-probabilities, weight versions and every sampling setting travel. Another
endpoint gets the standard fields only; a setting it cannot express is refused by name, and
tokens that it does not report are found by `tokenizer`, their log-probabilities being NaN.
"""

from __future__ import annotations

import asyncio
import json
import weakref
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx

from evolute.server.client import answers
from evolute.server.client.answers import Dialect
from evolute.types import (
    BackendError,
    ConfigError,
    DeadlineMissed,
    Delta,
    GenerateRequest,
    OutOfCapacity,
    Output,
    Tokenizer,
)

MAX_WAIT_S = 5.0  # between two tries, whatever Retry-After says


class HttpBackend:
    """Implements `evolute.types.Backend`. Usable from several event loops; close each by `aclose`.

    Only what cannot have started is tried again, `max_retries` times: a refused connection,
    429 and 503, but not a missed deadline. A failure of the service is a BackendError; a refusal
    of the request is the RequestError that the server named.
    """

    def __init__(
        self,
        url: str,
        model: str = "default",
        tokenizer: Tokenizer | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 600.0,
        max_retries: int = 3,
    ) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._model = model
        self._tokenizer = tokenizer
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = httpx.Timeout(timeout_s, connect=10.0)
        self._max_retries = max_retries
        self._dialect: Dialect | None = None
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = (
            weakref.WeakKeyDictionary()
        )
        self.num_retries = 0

    @property
    def tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise ConfigError(
                f"the backend at {self._url} was made without a tokenizer; pass tokenizer=, e.g. "
                "that of load_model(name)."
            )
        return self._tokenizer

    @property
    def model_name(self) -> str:
        return self._model

    async def agenerate(self, request: GenerateRequest) -> list[Output]:
        dialect = await self._find_dialect()
        payload = answers.payload(request, self._model, dialect)
        response = await self._open("POST", "/v1/completions", payload)
        try:
            await response.aread()
        except httpx.HTTPError as error:
            raise self._failure(error) from error
        finally:
            await response.aclose()
        return answers.outputs(_json(response), request, dialect, self._tokenizer)

    async def stream(self, request: GenerateRequest) -> AsyncIterator[Delta]:
        dialect = await self._find_dialect()
        payload = answers.payload(request, self._model, dialect)
        payload |= {"stream": True, "stream_options": {"include_usage": True}}
        response = await self._open("POST", "/v1/completions", payload)
        reader = answers.StreamReader(request, dialect, self._tokenizer)
        try:
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    break
                if line.startswith("data:"):
                    for delta in reader.push(_loads(line[5:])):
                        yield delta
            for delta in reader.finish():
                yield delta
        except httpx.HTTPError as error:
            raise self._failure(error) from error
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    async def __aenter__(self) -> HttpBackend:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _find_dialect(self) -> Dialect:
        if self._dialect is None:
            response = await self._open("GET", "/v1/models", None)
            try:
                await response.aread()
            except httpx.HTTPError as error:
                raise self._failure(error) from error
            finally:
                await response.aclose()
            cards = _json(response).get("data") or [{}]
            is_ours = cards[0].get("owned_by") == "evolute"
            self._dialect = Dialect.EVOLUTE if is_ours else Dialect.OPENAI
        return self._dialect

    async def _open(
        self, method: str, path: str, payload: Mapping[str, Any] | None
    ) -> httpx.Response:
        """An answer of status 200, its body unread. Raises what the server refused with."""
        for attempt in range(self._max_retries + 1):
            try:
                response = await self._send(method, path, payload)
            except httpx.ConnectError as error:
                failure: Exception = self._failure(error)
            except httpx.HTTPError as error:
                raise self._failure(error) from error
            else:
                if response.status_code == 200:
                    return response
                failure = await _refusal(response)
                if not isinstance(failure, OutOfCapacity) or isinstance(failure, DeadlineMissed):
                    raise failure
            if attempt < self._max_retries:
                self.num_retries += 1
                await asyncio.sleep(_wait_s(failure, attempt))
        raise failure

    async def _send(
        self, method: str, path: str, payload: Mapping[str, Any] | None
    ) -> httpx.Response:
        client = self._client()
        return await client.send(client.build_request(method, path, json=payload), stream=True)

    def _client(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._clients[loop] = httpx.AsyncClient(
                base_url=self._url,
                headers=self._headers,
                timeout=self._timeout,
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
                trust_env=False,  # a proxy from the environment is not meant for our servers
            )
        return self._clients[loop]

    def _failure(self, error: httpx.HTTPError) -> BackendError:
        reason = str(error) or type(error).__name__
        return BackendError(f"{self._url} did not answer: {reason}. Is the server running?")


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
        body = {"error": {"message": raw[:200].decode(errors="replace")}}
    return answers.failure(body, response.status_code, response.headers.get("retry-after"))


def _wait_s(failure: Exception, attempt: int) -> float:
    if isinstance(failure, OutOfCapacity):
        return min(failure.retry_after_s, MAX_WAIT_S)
    return min(0.1 * 2.0**attempt, MAX_WAIT_S)


def _json(response: httpx.Response) -> dict[str, Any]:
    return _loads(response.text)


def _loads(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise BackendError(f"the endpoint answered with something that is no JSON: {text[:120]!r}.")
    return value
