"""Does an embedder keep its promise? Shape, type, length 1, and no influence of the batch."""

from __future__ import annotations

from agentkd.protocols import Embedder
from agentkd.testing.checks.claim import claim

__all__ = ["check_embedder"]

_TEXTS = (
    "where is my parcel",
    "Book a table for two.",
    "",
    "x",
    "Wo ist mein Päckchen? 包裹 📦",
    "long " * 400,
)


def check_embedder(embedder: Embedder, *, tolerance: float = 1e-3) -> None:
    """Check that `embedder` keeps `protocols.Embedder`; `tolerance` bounds what batching may change."""
    import numpy as np

    claim(isinstance(embedder.fingerprint, str) and embedder.fingerprint, "`fingerprint` is empty")
    claim(embedder.dimensions > 0, "`dimensions` must be positive")
    vectors = embedder.embed(_TEXTS)
    shape = (len(_TEXTS), embedder.dimensions)
    claim(vectors.shape == shape, f"`embed` returned shape {vectors.shape}, promised {shape}")
    claim(vectors.dtype == np.float32, f"`embed` returned {vectors.dtype}, promised float32")
    claim(np.isfinite(vectors).all(), "`embed` returned NaN or infinity")
    lengths = np.linalg.norm(vectors, axis=1)
    claim(np.allclose(lengths, 1.0, atol=1e-3), f"vectors are not of length 1: {lengths.round(3).tolist()}")
    empty = embedder.embed([])
    claim(empty.shape == (0, embedder.dimensions), f"no texts gave shape {empty.shape}")
    for row, text in enumerate(_TEXTS):
        alone = embedder.embed([text])[0]
        claim(
            np.abs(alone - vectors[row]).max() <= tolerance,
            f"{text[:20]!r} alone and in a batch differ by {np.abs(alone - vectors[row]).max():.2g}",
        )
    backwards = embedder.embed(_TEXTS[::-1])[::-1]
    claim(np.abs(backwards - vectors).max() <= tolerance, "vectors do not follow the order of the texts")
    similarity = vectors @ vectors.T
    claim(similarity[0, 1] < 0.999, "different texts have the same vector")
