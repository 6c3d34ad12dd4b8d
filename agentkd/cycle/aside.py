"""Where the base acts in the place of a tainted student: near what was revoked of it.

Words in a prompt do not stop a student from what its weights hold (SmolLM2 showed a revoked habit on ten of
ten requests beside counter-memories that forbade it). So a request is not given to it that is as near to a
revoked situation as recall asks, and no nearer to anything else that the student learnt.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agentkd.cycle.replay import ancestor_datasets
from agentkd.memory.projection import key_texts
from agentkd.schema import Memory, Route

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agentkd.cycle.parts import Parts

__all__ = ["Aside"]


@dataclass(frozen=True)
class _Masked:
    """What was revoked of one student."""

    ids: Sequence[str]
    """Revoked memory of each key: a key itself may be somebody's words."""
    vectors: NDArray[np.float32]
    """Unit vectors, `[keys, dimension]`."""
    others: NDArray[np.float32]
    """Those of the requests that the student learnt besides, `[requests, dimension]`."""


class Aside:
    """Says per request whether a tainted student stands aside; safe to use from several threads.

    Keys are those of the counter-memories that are active for the student, whosever they are: its weights
    hold what was revoked for everybody. They are embedded on first use, and anew after each revocation.
    """

    def __init__(self, parts: Parts) -> None:
        """Ask of the workspace `parts`."""
        self._parts = parts
        self._lock = threading.Lock()
        self._known: dict[tuple[str, ...], _Masked] = {}

    def route(self, text: str, checkpoint: str) -> Route | None:
        """Return the route to the base where `checkpoint` stands aside on a request, else None."""
        parts = self._parts
        if checkpoint == "base" or parts.settings.revoke.serving != "aside":
            return None
        if parts.checkpoint(checkpoint).status != "tainted":
            return None
        masked = self._masked(checkpoint)
        if masked is None:
            return None
        (vector,) = parts.embedder().embed([text])
        cosines = masked.vectors @ vector
        at = int(cosines.argmax())
        score = round(float(cosines[at]), 6)
        nearest = round(float((masked.others @ vector).max()), 6) if len(masked.others) else 0.0
        threshold = max(parts.thresholds()["min_score"], nearest)
        if score < threshold:
            return None
        return Route(score=score, threshold=threshold, key=masked.ids[at], aside=checkpoint)

    def _masked(self, checkpoint: str) -> _Masked | None:
        kinds, memories = ("constraint",), self._parts.ledger.memories
        counters = [m for m in memories.list("active", kinds=kinds, checkpoint=checkpoint) if m.counters]
        if not counters:
            return None
        key = (checkpoint, *(memory.id for memory in counters))
        with self._lock:
            if key not in self._known:
                self._known = {key: self._embedded(checkpoint, counters)}
            return self._known[key]

    def _embedded(self, checkpoint: str, counters: Sequence[Memory]) -> _Masked:
        embedder = self._parts.embedder()
        keys = [(memory.counters, text) for memory in counters for text in key_texts(memory).values()]
        vectors, others = embedder.embed([text for _, text in keys]), self._others(checkpoint)
        away = embedder.embed(others) if others else np.zeros((0, 1), dtype=np.float32)
        return _Masked([id_ for id_, _ in keys], vectors, away)

    def _others(self, checkpoint: str) -> list[str]:
        """Return the requests under the student's rows that rest on nothing revoked."""
        parts, texts = self._parts, dict[str, None]()
        for dataset_id in ancestor_datasets(parts, checkpoint):
            tainted = parts.ledger.revocations.rows(dataset_id)
            rows = parts.ledger.datasets.rows(dataset_id, "train")
            clean = (row.provenance.trajectories for row in rows if row.example_id not in tainted)
            sources = dict.fromkeys(id_ for ids in clean for id_ in ids[:1])
            texts |= dict.fromkeys(found.task.prompt for found in parts.trajectories(sources))
        return list(texts)
