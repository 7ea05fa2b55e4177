"""A model behind HTTP as a `Backend`.

    HttpBackend(url, model)                          an Evolute server
    HttpBackend(url, model, tokenizer, api_key=...)  any OpenAI-compatible endpoint

Which of the two it talks to is asked once (GET /v1/models). Against our own server nothing is
lost: token ids, log-probabilities, weight versions and every sampling setting travel. Another
endpoint gets the standard fields only; a setting it cannot express is refused by name, and
tokens that it does not report are found by `tokenizer`, their log-probabilities being NaN.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from evolute.lang.endpoints.transport import Transport
from evolute.server.client import answers
from evolute.server.client.answers import Dialect
from evolute.types import ConfigError, Delta, GenerateRequest, Output, Tokenizer


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
        self._dialect: Dialect | None = None
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._transport = Transport(
            self._url, headers, timeout_s=timeout_s, max_retries=max_retries
        )

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

    @property
    def num_retries(self) -> int:
        return self._transport.num_retries

    async def agenerate(self, request: GenerateRequest) -> list[Output]:
        dialect = await self._find_dialect()
        payload = answers.payload(request, self._model, dialect)
        answer = await self._transport.json("POST", "/v1/completions", payload)
        return answers.outputs(answer, request, dialect, self._tokenizer)

    async def stream(self, request: GenerateRequest) -> AsyncIterator[Delta]:
        dialect = await self._find_dialect()
        payload = answers.payload(request, self._model, dialect)
        payload |= {"stream": True, "stream_options": {"include_usage": True}}
        reader = answers.StreamReader(request, dialect, self._tokenizer)
        async with aclosing(self._transport.events("/v1/completions", payload)) as events:
            async for event in events:
                for delta in reader.push(event):
                    yield delta
        for delta in reader.finish():
            yield delta

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self._transport.aclose()

    async def __aenter__(self) -> HttpBackend:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _find_dialect(self) -> Dialect:
        if self._dialect is None:
            answer = await self._transport.json("GET", "/v1/models")
            cards = answer.get("data") or [{}]
            is_ours = cards[0].get("owned_by") == "evolute"
            self._dialect = Dialect.EVOLUTE if is_ours else Dialect.OPENAI
        return self._dialect
