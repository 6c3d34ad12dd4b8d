"""Finds pairs of like vectors: all of them in a small set, nearly all in a large one without n^2 work.

A large set is cut by random hyperplanes (Charikar 2002): two vectors at an angle a fall on the same side of
one with probability 1 - a/pi, so that vectors that agree in all bits of one of many short codes are the
candidates. Only these are compared exactly; a pair that is named is never below the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ALL_PAIRS_UP_TO", "like_pairs", "n_codes"]

ALL_PAIRS_UP_TO = 8192
"""Vectors up to which every pair is compared."""

_BLOCK = 512  # rows of the similarity matrix that exist at one time
_BITS = 18
_MISSED = 1e-3  # share of pairs right at the threshold that no code may bring together
_GATHER = 1 << 13  # candidate pairs that are compared at one time
_CROWD = 24  # vectors under one code from which a flood is cheaper than comparing neighbours in the code

Joined = Callable[[int, int], bool]


def like_pairs(
    vectors: NDArray[np.floating], threshold: float, joined: Joined, all_pairs_up_to: int = ALL_PAIRS_UP_TO
) -> Iterator[tuple[int, int]]:
    """Yield pairs of rows of unit `vectors`, `[n, d]`, whose cosine is above `threshold`.

    `joined(one, other)` says whether a chain of pairs leads from one to the other already; such pairs may
    be left out. Past `all_pairs_up_to` vectors one pair in a thousand at the threshold is missed, fewer
    above it.
    """
    if len(vectors) <= all_pairs_up_to:
        yield from _every(vectors, threshold, joined)
    else:
        yield from _coded(vectors, threshold, joined)


def n_codes(threshold: float) -> int:
    """Return how many codes bring all but one in a thousand pairs at the threshold together."""
    same_side = 1.0 - math.acos(min(max(threshold, 0.0), 1.0 - 1e-9)) / math.pi
    return max(1, math.ceil(math.log(_MISSED) / math.log1p(-(same_side**_BITS))))


def _every(vectors: NDArray[np.floating], threshold: float, joined: Joined) -> Iterator[tuple[int, int]]:
    import numpy as np

    exact = vectors.astype(np.float32, copy=False)
    for start in range(0, len(exact), _BLOCK):
        block = exact[start : start + _BLOCK] @ exact[start:].T
        for one, other in zip(*(block > threshold).nonzero(), strict=True):
            if one < other and not joined(start + int(one), start + int(other)):
                yield start + int(one), start + int(other)


def _coded(vectors: NDArray[np.floating], threshold: float, joined: Joined) -> Iterator[tuple[int, int]]:
    import numpy as np

    chance = np.random.default_rng(0)
    powers = 1 << np.arange(_BITS, dtype=np.int64)
    for _ in range(n_codes(threshold)):
        planes = chance.standard_normal((vectors.shape[1], _BITS), dtype=np.float32)
        codes = np.empty(len(vectors), dtype=np.int64)
        for start in range(0, len(vectors), _GATHER):
            part = vectors[start : start + _GATHER].astype(np.float32, copy=False)
            codes[start : start + _GATHER] = (part @ planes > 0) @ powers
        order = codes.argsort(kind="stable")
        edges = np.flatnonzero(np.diff(codes[order], prepend=-1, append=-1))
        sizes = np.diff(edges)
        for start, size in zip(edges[:-1][sizes > _CROWD], sizes[sizes > _CROWD], strict=True):
            yield from _flooded(vectors, order[start : start + size], threshold)
        small = np.repeat(sizes <= _CROWD, sizes)
        yield from _compared(vectors, order[small], codes[order[small]], threshold, joined)


def _compared(
    vectors: NDArray[np.floating],
    order: NDArray[np.integer],
    codes: NDArray[np.integer],
    threshold: float,
    joined: Joined,
) -> Iterator[tuple[int, int]]:
    """Compare the vectors of every code, which stand side by side, with each other."""
    import numpy as np

    for apart in range(1, min(_CROWD, len(order))):
        same = np.flatnonzero(codes[apart:] == codes[:-apart])
        for start in range(0, len(same), _GATHER):
            ones = order[same[start : start + _GATHER]]
            others = order[same[start : start + _GATHER] + apart]
            cosines = np.einsum("nd,nd->n", vectors[ones], vectors[others], dtype=np.float32)
            for place in np.flatnonzero(cosines > threshold):
                one, other = int(ones[place]), int(others[place])
                if not joined(one, other):
                    yield one, other


def _flooded(
    vectors: NDArray[np.floating], members: NDArray[np.integer], threshold: float
) -> Iterator[tuple[int, int]]:
    """Walk from vector to like vector within one code: a near duplicate costs one comparison."""
    import numpy as np

    left = members
    while len(left) > 1:
        frontier, left = [left[0]], left[1:]
        while frontier and len(left):
            at = frontier.pop()
            rest = vectors[left].astype(np.float32, copy=False)
            is_like = rest @ vectors[at].astype(np.float32) > threshold
            for other in left[is_like]:
                yield int(at), int(other)
            frontier.extend(left[is_like])
            left = left[~is_like]
