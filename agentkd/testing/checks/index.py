"""Does an index keep its promise? Upsert, order, partitions, deletion, clearing, reopening."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from agentkd.protocols import Index
from agentkd.testing.checks.claim import claim

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["check_index"]

_DIMENSIONS = 16


def check_index(factory: Callable[[], Index], *, dimensions: int = _DIMENSIONS) -> None:
    """Check that what `factory` makes keeps `protocols.Index`.

    Args:
        factory: Opens the index; called again after `close`, so it may reopen the same files.
        dimensions: Length of the vectors, where the index is made for one embedder.
    """
    index = factory()
    index.clear()
    try:
        _check_queries(index, _basis(dimensions))
        _check_partitions(index, _basis(dimensions))
        _check_changes(index, _basis(dimensions))
        index.clear()
        claim(index.count() == 0, f"{index.count()} vectors are left after `clear`")
    finally:
        index.close()
    again = factory()
    try:
        again.add(["z"], _basis(dimensions)[:1], ["mem-z"], ["task"], "p")
        claim(again.count() == 1, "the index does not work after it was closed and opened again")
    finally:
        again.close()


def _basis(dimensions: int) -> NDArray[np.float32]:
    import numpy as np

    return np.eye(dimensions, dtype=np.float32)


def _check_queries(index: Index, basis: NDArray[np.float32]) -> None:
    index.add(["a", "b", "c"], basis[:3], ["mem-a", "mem-b", "mem-c"], ["task", "situation", "task"], "p")
    claim(index.count() == 3, f"three vectors were added, `count` says {index.count()}")
    mixed = (0.8 * basis[0] + 0.6 * basis[1])[None, :]
    found = index.query(mixed, 2, "p")
    claim(len(found) == 1, "`query` must return one list per query vector")
    ids = [hit.memory_id for hit in found[0]]
    claim(ids == ["mem-a", "mem-b"], f"expected the two nearest, best first: mem-a, mem-b; got {ids}")
    claim(
        [hit.key for hit in found[0]] == ["task", "situation"],
        "a hit does not carry the key it was added with",
    )
    scores = [hit.score for hit in found[0]]
    claim(
        abs(scores[0] - 0.8) < 0.02 and abs(scores[1] - 0.6) < 0.02,
        f"scores must be cosine similarities 0.8 and 0.6, got {scores}",
    )
    both = index.query(basis[:2], 1, "p")
    claim([hits[0].memory_id for hits in both] == ["mem-a", "mem-b"], "answers do not follow the queries")
    claim(len(index.query(basis[:1], 50, "p")[0]) == 3, "`k` above the count must return all")


def _check_partitions(index: Index, basis: NDArray[np.float32]) -> None:
    claim(index.query(basis[:1], 3, "nobody") == [[]], "an unknown partition must answer with no hits")
    index.add(["q"], basis[:1], ["mem-q"], ["task"], "q")
    ids = {hit.memory_id for hit in index.query(basis[:1], 9, "p")[0]}
    claim("mem-q" not in ids, "a query saw a vector of another partition")
    claim(
        [h.memory_id for h in index.query(basis[:1], 9, "q")[0]] == ["mem-q"], "partition `q` lost its vector"
    )


def _check_changes(index: Index, basis: NDArray[np.float32]) -> None:
    before = index.count()
    index.add(["a"], basis[3:4], ["mem-a"], ["task"], "p")
    claim(index.count() == before, "adding a known id must replace its vector, not add another")
    best = index.query(basis[3:4], 1, "p")[0][0]
    claim(best.memory_id == "mem-a" and best.score > 0.98, "the vector of a known id was not replaced")
    index.delete(["mem-a", "mem-unknown"], "p")
    left = {hit.memory_id for hit in index.query(basis[3:4], 9, "p")[0]}
    claim("mem-a" not in left, "a deleted memory is still found")
    claim(left == {"mem-b", "mem-c"}, f"`delete` took more than it was told to: left {sorted(left)}")
    index.add([], basis[:0], [], [], "p")
    claim(index.count() == before - 1, "adding nothing changed the index")
