"""Keep the index in step with the ledger: follow its memory events from a high-water mark.

The mark belongs to the index's identity and the embedder's fingerprint: a deleted index, a cleared
one and another embedder start from the first event. Chroma applies a killed write at least once, so
events are replayed from the last mark; ids are derived from content and replaying changes nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from agentkd.memory.scope import partition_of
from agentkd.protocols import Embedder, Index, Progress, SilentProgress
from agentkd.schema import Memory, MemoryStatus

if TYPE_CHECKING:
    from agentkd.ledger import Ledger

__all__ = ["INDEXED", "Projection", "key_texts"]

INDEXED: tuple[MemoryStatus, ...] = ("active", "compiled", "retired")
"""Base statuses whose memories the index holds: those that may be recalled for some checkpoint."""

EMBEDDED = ("situation", "query", "task")
"""Keys that are embedded. Tool names are not: they repeat, hundreds of equal vectors cut the graph of an
approximate index into islands, and on BFCL requests they found nothing more (hit@4 0.995 either way)."""

_KEYS_UNTOUCHED = ("corroborated", "merged")
_EVENTS = 1000  # between two marks
_BAR_FROM = 200  # events


def key_texts(memory: Memory) -> dict[str, str]:
    """Return the distinct texts that a memory is found by; `when_to_use` where its keys name none."""
    texts = memory.keys.texts()
    named = {name: texts[name].strip() for name in EMBEDDED if name in texts}
    by_text: dict[str, str] = {}
    for name, text in (named or {"situation": memory.when_to_use.strip()}).items():
        by_text.setdefault(text, name)
    return {name: text for text, name in by_text.items() if text}


class Projection:
    """Applies ledger events to an index; one at a time, however many threads ask."""

    def __init__(
        self, ledger: Ledger, index: Index, embedder: Embedder, progress: Progress | None = None
    ) -> None:
        self._memories = ledger.memories
        self._index = index
        self._embedder = embedder
        self._progress = progress or SilentProgress()
        self._lock = threading.RLock()
        self._seen = self._stored_mark()

    @property
    def seen(self) -> int:
        """Number of the last event that the index has followed."""
        return self._seen

    def sync(self) -> int:
        """Follow all new events and return their number."""
        with self._lock:
            events = self._memories.events(self._seen)
            if not events:
                return 0
            shown = self._progress if len(events) >= _BAR_FROM else SilentProgress()
            with shown.bar("index", len(events), "events") as bar:
                for start in range(0, len(events), _EVENTS):
                    part = events[start : start + _EVENTS]
                    self._apply(
                        e.memory_id for e in part if e.checkpoint == "base" and e.kind not in _KEYS_UNTOUCHED
                    )
                    self._move_mark(part[-1].seq)
                    bar.advance(len(part))
            return len(events)

    def rebuild(self) -> int:
        """Clear the index and follow every event from the first; return their number."""
        with self._lock:
            self._index.clear()
            self._seen = 0
            return self.sync()

    def expected_count(self) -> int:
        """Return how many vectors the index should hold."""
        return sum(len(key_texts(memory)) for memory in self._memories.list(status=INDEXED))

    def _apply(self, memory_ids: Iterable[str]) -> None:
        """Bring these memories into the state that the ledger has now, whatever the event said."""
        ids = list(dict.fromkeys(memory_ids))
        if not ids:
            return
        status = self._memories.status_for("base")  # current memories only
        memories = self._memories.get_many(ids)
        wanted = [m for m in memories if status.get(m.id) in INDEXED]
        gone = [m for m in memories if status.get(m.id) not in INDEXED]
        for partition, group in _by_partition(gone).items():
            self._index.delete([memory.id for memory in group], partition)
        self._add(wanted)

    def _add(self, memories: Sequence[Memory]) -> None:
        rows = [(m.id, name, text) for m in memories for name, text in key_texts(m).items()]
        if not rows:
            return
        vectors = self._embedder.embed([text for _, _, text in rows])
        places: dict[str, list[int]] = {}
        partitions = {memory.id: partition_of(memory.scope) for memory in memories}
        for row, (memory_id, _, _) in enumerate(rows):
            places.setdefault(partitions[memory_id], []).append(row)
        for partition, at in places.items():
            self._index.add(
                [f"{rows[row][0]}/{rows[row][1]}" for row in at],
                vectors[at],
                [rows[row][0] for row in at],
                [rows[row][1] for row in at],
                partition,
            )

    def _mark_name(self) -> str:
        identity = getattr(self._index, "identity", "")
        return f"{identity}:{self._embedder.fingerprint}" if identity else ""

    def _stored_mark(self) -> int:
        name = self._mark_name()
        return self._memories.index_mark(name) if name else 0

    def _move_mark(self, seq: int) -> None:
        name = self._mark_name()
        if name:
            self._memories.set_index_mark(name, seq)
        self._seen = seq


def _by_partition(memories: Iterable[Memory]) -> dict[str, list[Memory]]:
    groups: dict[str, list[Memory]] = {}
    for memory in memories:
        groups.setdefault(partition_of(memory.scope), []).append(memory)
    return groups
