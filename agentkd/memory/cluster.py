"""Memories of one topic: average-link clustering of the vectors of their situations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["clusters"]


def clusters(vectors: NDArray[np.float32], alike: float) -> list[list[int]]:
    """Merge the two groups of the highest average similarity until none reaches `alike`; rows are sorted."""
    members = [[row] for row in range(len(vectors))]
    scores = (vectors @ vectors.T).astype(np.float64)
    np.fill_diagonal(scores, -np.inf)
    while len(members) > 1:
        first, second = np.unravel_index(int(np.argmax(scores)), scores.shape)
        a, b = min(int(first), int(second)), max(int(first), int(second))
        if scores[a, b] < alike:
            break
        n_a, n_b = len(members[a]), len(members[b])
        joined = (n_a * scores[a] + n_b * scores[b]) / (n_a + n_b)  # Lance-Williams, average link
        scores[a, :], scores[:, a] = joined, joined
        scores[a, a] = -np.inf
        scores[b, :], scores[:, b] = -np.inf, -np.inf
        members[a] = sorted(members[a] + members[b])
        members[b] = []
    return [rows for rows in members if rows]
