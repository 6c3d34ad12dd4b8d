"""EMBEDDERS: texts to unit vectors, by MiniLM on onnxruntime, any LiteLLM provider, or plain hashing.

Vectors of a model are kept on disk by content, so a text is embedded once per machine and model.
"""

from __future__ import annotations

from agentkd.embedders.cache import CachedEmbedder, VectorCache
from agentkd.embedders.hashing import HashingEmbedder, HashingSettings
from agentkd.embedders.minilm import MiniLmEmbedder, MiniLmSettings
from agentkd.embedders.remote import RemoteEmbedder, RemoteSettings

__all__ = [
    "CachedEmbedder",
    "HashingEmbedder",
    "HashingSettings",
    "MiniLmEmbedder",
    "MiniLmSettings",
    "RemoteEmbedder",
    "RemoteSettings",
    "VectorCache",
]
