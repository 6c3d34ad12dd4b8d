"""Where the base acts in the place of a tainted student: near what was revoked of it.

Words in a prompt do not stop a student from what its weights hold (SmolLM2 showed a revoked habit on ten of
ten requests beside counter-memories that forbade it). So a request is not given to it that is as near to one
which it should not have learnt as recall asks, and no nearer to anything else that it learnt.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agentkd.cycle.replay import ancestor_datasets
from agentkd.cycle.routing import nearest
from agentkd.errors import BudgetError, ModelError
from agentkd.memory.projection import key_texts
from agentkd.schema import Provenance, Route

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agentkd.cycle.parts import Parts

__all__ = ["Aside"]


@dataclass(frozen=True)
class _Masked:
    """What a student should not have learnt, and what else it did."""

    ids: Sequence[str]
    """Revoked memory, or run, of each key: a key itself may be somebody's words."""
    vectors: NDArray[np.float32]
    """Unit vectors, `[keys, dimension]`."""
    others: NDArray[np.float32]
    """Those of the other requests that it was trained on, `[requests, dimension]`."""


class Aside:
    """Says per request whether a tainted student stands aside; safe to use from several threads.

    Keys are the requests under its tainted rows and those of the counter-memories that are active for it,
    whosever they are: its weights hold what was revoked for everybody. They are embedded on first use, and
    anew after each revocation. Where none are left nothing says where the revoked shows: it never acts then.
    """

    def __init__(self, parts: Parts) -> None:
        """Ask of the workspace `parts`."""
        self._parts = parts
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], _Masked | None] = {}

    def route(self, text: str, checkpoint: str) -> Route | None:
        """Return the route to the base where `checkpoint` stands aside on a request, else None."""
        parts = self._parts
        if checkpoint == "base" or parts.settings.revoke.serving != "aside":
            return None
        if parts.checkpoint(checkpoint).status != "tainted":
            return None
        try:
            masked = self._masked(checkpoint)
            if masked is None:
                return Route(aside=checkpoint)
            (vector,) = parts.embedder().embed([text])
        except BudgetError:
            raise
        except ModelError:  # nobody can say whether it is near
            return Route(aside=checkpoint)
        score, at = nearest(masked.vectors, vector)
        besides = nearest(masked.others, vector)[0] if len(masked.others) else 0.0
        threshold = max(parts.thresholds()["min_score"], besides)
        if score < threshold:
            return None
        return Route(score=score, threshold=threshold, key=masked.ids[at], aside=checkpoint)

    def _masked(self, checkpoint: str) -> _Masked | None:
        key = checkpoint, self._parts.ledger.revocations.mark()
        with self._lock:
            if key not in self._known:
                self._known = {key: self._embedded(checkpoint)}
            return self._known[key]

    def _embedded(self, checkpoint: str) -> _Masked | None:
        keys, others = self._requests(checkpoint)
        if not keys:
            return None
        vectors = self._parts.embedder().embed([*keys, *others])
        return _Masked(list(keys.values()), vectors[: len(keys)], vectors[len(keys) :])

    def _requests(self, checkpoint: str) -> tuple[dict[str, str], list[str]]:
        """Return what a student should not have learnt, with whose it is, and the requests besides."""
        ledger, keys, others = self._parts.ledger, dict[str, str](), dict[str, str]()
        for dataset_id in ancestor_datasets(self._parts, checkpoint):
            tainted = ledger.revocations.rows(dataset_id)
            rows = ledger.datasets.rows(dataset_id, "train")
            keys |= dict(self._under([row.provenance for row in rows if row.example_id in tainted]))
            others |= dict(self._under([row.provenance for row in rows if row.example_id not in tainted]))
        for memory in ledger.memories.list("active", kinds=["constraint"], checkpoint=checkpoint):
            if memory.counters:
                keys |= dict.fromkeys(key_texts(memory).values(), memory.counters)
        return keys, [text for text in others if text not in keys]

    def _under(self, rows: Sequence[Provenance]) -> Iterator[tuple[str, str]]:
        """Yield the requests that rows were made from; the keys of its memories for one that has no run."""
        sources = dict.fromkeys(id_ for row in rows for id_ in row.trajectories[:1])
        yield from ((run.task.prompt, run.id) for run in self._parts.trajectories(sources))
        told = dict.fromkeys(id_ for row in rows if not row.trajectories for id_ in row.memories)
        for memory in self._parts.ledger.memories.get_many(told):
            yield from ((text, memory.id) for text in key_texts(memory).values())
