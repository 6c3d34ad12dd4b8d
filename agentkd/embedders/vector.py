"""What every embedder does with vectors: unit length out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["unit"]


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale the rows of `[n, d]` to length one; a zero row becomes the first axis."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled = vectors / np.where(norms > 0, norms, 1.0)
    scaled[norms[:, 0] == 0, 0] = 1.0
    return scaled.astype(np.float32)
