"""An embedder without a model: feature hashing of words and word pairs.

It knows spelling, not meaning: for tests, and for machines that cannot fetch a model. Source:
Weinberger et al., "Feature Hashing for Large Scale Multitask Learning" (2009): signed buckets.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from agentkd.embedders.vector import unit
from agentkd.schema import Value, content_id
from agentkd.schema.text import whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agentkd.protocols import Kit

__all__ = ["HashingEmbedder", "HashingSettings", "build"]

_WORD = re.compile(r"\w+")


class HashingSettings(Value):
    """`[embedder.hashing]`: feature hashing."""

    dimensions: int = Field(default=512, ge=8, le=65536)
    """Buckets, and length of a vector."""
    max_words: int = Field(default=2, ge=1, le=4)
    """Longest run of words that is one feature."""


class HashingEmbedder:
    """Counts words and word runs in signed hash buckets; equal text gives equal vectors everywhere."""

    def __init__(self, settings: HashingSettings | None = None) -> None:
        self._settings = settings or HashingSettings()
        self.dimensions = self._settings.dimensions
        self.fingerprint = content_id("emb", "hashing", 1, self._settings)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors, `[len(texts), dimensions]`."""
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        for row, text in enumerate(texts):
            for feature, count in Counter(self._features(whole(text))).items():
                number = int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=8).digest(), "big")
                sign = 1.0 if number & 1 else -1.0
                vectors[row, (number >> 1) % self.dimensions] += sign * math.sqrt(count)
        return unit(vectors)

    def _features(self, text: str) -> Iterator[str]:
        words = _WORD.findall(text.lower()) or [text]
        for n in range(1, self._settings.max_words + 1):
            for start in range(len(words) - n + 1):
                yield " ".join(words[start : start + n])


def build(settings: HashingSettings, kit: Kit | Any) -> HashingEmbedder:
    """Make the embedder; it is too cheap to cache."""
    return HashingEmbedder(settings)
