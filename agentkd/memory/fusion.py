"""Put two searches into one order, and choose what is relevant without being alike.

Fusion is a weighted sum of scores, each scaled to [0, 1] over what its search found (relative score
fusion; Bruch, Gai and Ingber, 2023, compare such sums with reciprocal ranks). Diversity is maximal
marginal relevance (Carbonell and Goldstein, 1998).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["diversify", "fuse"]


def fuse(dense: Mapping[str, float], words: Mapping[str, float], *, weight: float) -> list[tuple[str, float]]:
    """Return (id, relevance) of all that was found, best first; equal relevance by id.

    Args:
        dense: Cosine by id. The worst of them stands for what this search did not find.
        words: BM25 by id, above 0. What this search did not find counts 0.
        weight: What the best BM25 is worth against the whole span of the cosines; 0 leaves their order.
    """
    floor = min(dense.values(), default=0.0)
    span = max(dense.values(), default=0.0) - floor or 1.0
    most = max(words.values(), default=0.0) or 1.0
    scores = {
        id_: (dense.get(id_, floor) - floor) / span + weight * words.get(id_, 0.0) / most
        for id_ in (*dense, *(id_ for id_ in words if id_ not in dense))
    }
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def diversify(
    relevance: Sequence[float], vectors: NDArray[np.float32], k: int, *, weight: float
) -> list[int]:
    """Return positions of `k` items, chosen one after the other by relevance and by being unlike.

    Args:
        relevance: One per item; scaled to [0, 1] here.
        vectors: Unit vectors `[n, d]` of the items.
        k: Items to choose.
        weight: What the greatest similarity to an item chosen before costs, in [0, 1].
    """
    import numpy as np

    n = len(relevance)
    if not n:
        return []
    value = np.asarray(relevance, np.float64)
    value = (value - value.min()) / (np.ptp(value) or 1.0)
    likeness = vectors @ vectors.T
    nearest = np.zeros(n)
    chosen: list[int] = []
    free = np.ones(n, bool)
    while len(chosen) < min(k, n):
        gain = np.where(free, (1.0 - weight) * value - weight * nearest, -np.inf)
        best = int(gain.argmax())
        chosen.append(best)
        free[best] = False
        nearest = np.maximum(nearest, likeness[best])
    return chosen
