"""An embedder behind any LiteLLM provider: OpenAI, Cohere, Voyage, Ollama, vLLM and the rest."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from agentkd.embedders.cache import CachedEmbedder, VectorCache
from agentkd.embedders.vector import unit
from agentkd.errors import AgentkdError, ConfigError, MissingExtraError, ModelError
from agentkd.protocols import SilentProgress
from agentkd.schema import Usage, Value, content_id
from agentkd.schema.text import whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agentkd.protocols import Kit, Progress

__all__ = ["RemoteEmbedder", "RemoteSettings", "build"]

Paying = Callable[[str, Usage, str], AbstractContextManager[list[Usage]]]
"""Stands around a request to a paid service: `agentkd.protocols.Kit.paying`."""
CHARS_PER_TOKEN = 2.5
"""Characters per token, taken low so that what is held back for a request is a ceiling for most texts."""

_PASSING = (408, 409, 425, 429, 500, 502, 503, 504)


class RemoteSettings(Value):
    """`[embedder.litellm]`: which provider embeds."""

    model: str = ""
    """LiteLLM model string such as `openai/text-embedding-3-small`; required."""
    api_base: str = ""
    """Address of the server where it is not the provider's own."""
    dimensions: int = Field(default=0, ge=0)
    """Length of the vectors to ask for; 0 takes what the model gives."""
    batch_size: int = Field(default=64, ge=1, le=2048)
    """Texts per request."""
    timeout_seconds: float = Field(default=60.0, gt=0)
    """Limit of one request."""
    retries: int = Field(default=3, ge=0)
    """Further tries after a passing fault."""
    max_cached: int = Field(default=200_000, ge=0)
    """Vectors kept on disk; 0 keeps none."""


class RemoteEmbedder:
    """Sends texts to a provider in batches; keys come from the provider's environment variables."""

    def __init__(
        self, settings: RemoteSettings, progress: Progress | None = None, paying: Paying | None = None
    ) -> None:
        """Note the settings, and ask the provider once for the length of its vectors where they do not say.

        `paying` stands around each request: it books what it cost, and may refuse it. Raises ConfigError
        where no model is named, ModelError where the provider cannot be asked.
        """
        if not settings.model:
            raise ConfigError(
                "the embedder `litellm` has no model",
                hint='set `model` in `[embedder.litellm]`, such as "openai/text-embedding-3-small"',
            )
        self._settings = settings
        self._progress = progress or SilentProgress()
        self._paying: Paying = paying or (lambda name, expected, purpose: nullcontext([]))
        self.fingerprint = content_id(
            "emb", "litellm", settings.model, settings.api_base, settings.dimensions
        )
        self.dimensions = settings.dimensions or len(self._request(["dimensions"])[0])

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors, `[len(texts), dimensions]`; raises ModelError."""
        rows: list[list[float]] = []
        size = self._settings.batch_size
        progress: Progress = self._progress if len(texts) > size else SilentProgress()
        with progress.bar("embed", len(texts), "texts") as bar:
            for start in range(0, len(texts), size):
                batch = [whole(text) or " " for text in texts[start : start + size]]
                rows += self._request(batch)
                bar.advance(len(batch))
        if {len(row) for row in rows} - {self.dimensions}:
            raise ModelError(
                f"`{self._settings.model}` answered with vectors of another length than {self.dimensions}",
                hint="check `dimensions` in `[embedder.litellm]`",
            )
        return unit(np.asarray(rows, np.float32).reshape(len(texts), self.dimensions))

    def _request(self, batch: list[str]) -> list[list[float]]:
        litellm = _litellm()
        options: dict[str, Any] = {
            "timeout": self._settings.timeout_seconds,
            "encoding_format": "float",
            "max_retries": 0,
        }
        if self._settings.api_base:
            options["api_base"] = self._settings.api_base
        if self._settings.dimensions:
            options["dimensions"] = self._settings.dimensions
        model, n_chars = self._settings.model, sum(len(text) for text in batch)
        expected = _usage(litellm, model, int(n_chars / CHARS_PER_TOKEN) + len(batch))
        for attempt in range(self._settings.retries + 1):
            try:
                with self._paying(model, expected, "embed") as spent:
                    started = time.monotonic()
                    answer = litellm.embedding(model=model, input=batch, **options)
                    n_tokens = getattr(getattr(answer, "usage", None), "prompt_tokens", 0) or 0
                    spent.append(_usage(litellm, model, n_tokens, time.monotonic() - started))
                    return _vectors(answer, len(batch), model)
            except AgentkdError:
                raise
            except Exception as error:  # litellm maps providers' faults to a dozen classes
                is_passing = getattr(error, "status_code", None) in _PASSING
                if not is_passing or attempt == self._settings.retries:
                    raise ModelError(
                        f"`{self._settings.model}` cannot embed: {type(error).__name__}: "
                        f"{str(error).partition(chr(10))[0]}",
                        hint="check the model's name, its key and the network",
                        model=self._settings.model,
                    ) from error
                time.sleep(min(2.0**attempt / 2, 8.0))
        raise AssertionError("unreachable: the last attempt returns or raises")


def build(settings: RemoteSettings, kit: Kit) -> RemoteEmbedder | CachedEmbedder:
    """Make the embedder and put the disk cache before it."""
    embedder = RemoteEmbedder(settings, kit.progress, kit.paying)
    if not settings.max_cached:
        return embedder
    path = kit.cache_dir / "vectors" / f"{embedder.fingerprint}.sqlite"
    return CachedEmbedder(embedder, VectorCache(path, embedder.dimensions, settings.max_cached))


def _litellm() -> Any:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else its import reaches for the network
    try:
        import litellm
    except ImportError as error:
        raise MissingExtraError.of("litellm", "all", "the embedder `litellm`") from error
    return litellm


def _usage(litellm: Any, model: str, n_tokens: int, seconds: float = 0.0) -> Usage:
    try:
        usd: float | None = sum(
            litellm.cost_per_token(
                model=model, prompt_tokens=n_tokens, completion_tokens=0, call_type="embedding"
            )
        )
    except Exception:  # LiteLLM raises many kinds for a model that its price list lacks
        usd = None
    return Usage(prompt_tokens=n_tokens, usd=usd, seconds=seconds)


def _vectors(answer: Any, n: int, model: str) -> list[list[float]]:
    """Take the vectors out of an answer in the order of the inputs."""
    rows = [item if isinstance(item, dict) else item.model_dump() for item in answer.data]
    rows.sort(key=lambda item: item.get("index", 0))
    vectors = [row["embedding"] for row in rows]
    if len(vectors) != n or not all(isinstance(vector, list) for vector in vectors):
        raise ModelError(f"`{model}` answered {len(vectors)} vectors for {n} texts", model=model)
    return vectors
