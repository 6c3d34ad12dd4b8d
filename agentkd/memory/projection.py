"""Keep the indexes in step with the ledger: follow its memory events from a high-water mark.

A mark belongs to the identity of an index, that of vectors also to the embedder's fingerprint: a deleted
index, a cleared one and another embedder start from the first event. Chroma applies a killed write at
least once, so events are replayed from the last mark; ids are derived from content and replaying changes
nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from agentkd.memory.lexical import LexicalIndex
from agentkd.memory.scope import partition_of
from agentkd.memory.status import INDEXED
from agentkd.protocols import Embedder, Index, Progress, SilentProgress
from agentkd.schema import MemoryKeys

if TYPE_CHECKING:
    from agentkd.ledger import Ledger, Outline

__all__ = ["EMBEDDED", "INDEXED", "Projection", "key_texts"]

EMBEDDED = ("situation", "query", "task")
"""Keys that are embedded. Tool names are not: they repeat, hundreds of equal vectors cut the graph of an
approximate index into islands, and on BFCL requests they found nothing more (hit@4 0.995 either way)."""

_UNTOUCHED = ("corroborated", "merged")  # events that change nothing that a memory is found by
_REKEYED = ("united", "undone")  # events after which a memory may have fewer keys
_EVENTS = 4000  # between two marks
_WORDS_BEHIND = 2000  # events that the index of words may be behind: a recall waits for it
_BAR_FROM = 200  # events


class Keyed(Protocol):
    """What has keys: a memory, or its outline."""

    @property
    def keys(self) -> MemoryKeys:
        """Texts that are embedded."""

    @property
    def when_to_use(self) -> str:
        """The situation in which it helps."""


class Worded(Keyed, Protocol):
    """What has words beside its keys."""

    @property
    def content(self) -> str:
        """The lesson."""


def key_texts(memory: Keyed) -> dict[str, str]:
    """Return the distinct texts that a memory is found by; `when_to_use` where its keys name none."""
    texts = memory.keys.texts()
    names = [name for name in texts if name in EMBEDDED or name.startswith("more-")]
    named = {name: texts[name].strip() for name in names}
    by_text: dict[str, str] = {}
    for name, text in (named or {"situation": memory.when_to_use.strip()}).items():
        by_text.setdefault(text, name)
    return {name: text for text, name in by_text.items() if text}


def word_text(memory: Worded) -> str:
    """Return the text that a memory is found by its words in."""
    return "\n".join(dict.fromkeys([*memory.keys.texts().values(), memory.when_to_use, memory.content]))


class Projection:
    """Applies ledger events to the indexes; one at a time, however many threads ask."""

    def __init__(
        self,
        ledger: Ledger,
        index: Index,
        embedder: Embedder,
        progress: Progress | None = None,
        words: LexicalIndex | None = None,
    ) -> None:
        """Compose a projection; `words` is left out where nothing is searched by words."""
        self._ledger = ledger
        self._index = index
        self._embedder = embedder
        self._progress = progress or SilentProgress()
        self._lock = threading.RLock()
        self._vectors = _Vectors(index, embedder)
        self._words = _Words(words) if words is not None else None
        for target in self._targets():
            target.seen = target.marked = self._stored_mark(target)

    @property
    def seen(self) -> int:
        """Number of the last event that every index has followed."""
        return min(target.seen for target in self._targets())

    def sync(self, *, words: bool = True) -> int:
        """Follow all new events and return their number.

        Without `words` the index of words is left for the next recall, unless it is far behind: each commit
        of it costs a disk's flush, and a thousand writes need one.
        """
        with self._lock:
            if self._is_shared:
                self._index.refresh()  # type: ignore[attr-defined]
                self._vectors.seen = self._stored_mark(self._vectors)
            n = self._follow(self._targets() if words else [self._vectors])
            if self._words is not None and self._vectors.seen - self._words.seen > _WORDS_BEHIND:
                self._follow([self._words])
            return n

    def waiting(self) -> int:
        """Return how many vectors are found but not yet written by their index."""
        return self._vectors.waiting()

    def settle(self, most: int | None = None) -> int:
        """Let the index write what waits in memory, at most `most` vectors; returns how many still wait."""
        with self._lock:
            n = self.waiting()
            left = int(self._index.settle(n if most is None else most)) if n else 0  # type: ignore[attr-defined]
            name, seq = self._vectors.mark_name(), self._vectors.seen
            if left or not name or seq <= self._vectors.marked:
                return left
            self._vectors.marked = seq
        self._ledger.memories.set_index_mark(name, seq)  # without our lock: a writer may wait for it
        return 0

    def rebuild(self, *, words: bool = True) -> int:
        """Make the indexes anew from the first event and return the number of events.

        An index that can be filled aside serves as it is until the new one is whole; a rebuild that was
        killed goes on from its mark.
        """
        aside = getattr(self._index, "aside", None)
        if aside is None:
            with self._lock:
                for target in self._targets():
                    _empty(target)
                return self._follow(self._targets())
        fresh = _Vectors(aside(resume=True), self._embedder)
        fresh.seen = self._stored_mark(fresh)
        n = self._follow([fresh])  # recalls go on meanwhile, on the old index
        with self._lock:
            with self._ledger.transaction():  # no other process applies an event to the old one in between
                n += self._follow([fresh])
                self._index.switch(fresh.index)  # type: ignore[attr-defined]
            self._vectors.seen = self._vectors.marked = fresh.seen
            if words and self._words is not None:
                _empty(self._words)
                self._follow([self._words])
        return n

    @property
    def _is_shared(self) -> bool:
        return bool(getattr(self._index, "is_shared", False))

    def _targets(self) -> list[_Target]:
        return [self._vectors] if self._words is None else [self._vectors, self._words]

    def _follow(self, targets: Sequence[_Target]) -> int:
        first, *_ = targets
        before = first.seen
        events = self._ledger.memories.changes(min(target.seen for target in targets))
        if not events:
            return 0
        shown = self._progress if len(events) >= _BAR_FROM else SilentProgress()
        with shown.bar("index", len(events), "events") as bar:
            for start in range(0, len(events), _EVENTS):
                part = events[start : start + _EVENTS]
                told = [e for e in part if e.checkpoint == "base" and e.kind not in _UNTOUCHED]
                touched = _Touched(
                    {e.memory_id: e.seq for e in told}, {e.memory_id for e in told if e.kind in _REKEYED}
                )
                for target in targets:
                    if target.seen < part[-1].seq:
                        self._bring(target, touched, part[-1].seq)
                bar.advance(len(part))
        return sum(event.seq > before for event in events)

    def _bring(self, target: _Target, touched: _Touched, seq: int) -> None:
        """Bring a target up to an event and remember it.

        What several processes write, one at a time brings up, under the ledger's write lock: a process that
        read a status before another one did would otherwise undo what the other wrote.
        """
        if self._is_shared and not target.is_own:
            target.prepare(self._outlines(touched, target.seen)[0])
            with self._ledger.transaction():
                self._index.refresh()  # type: ignore[attr-defined]  # another may have switched builds
                target.seen = max(target.seen, self._stored_mark(target))
                if target.seen < seq:
                    target.apply(*self._outlines(touched, target.seen))
                    self._move_mark(target, seq)
            return
        target.apply(*self._outlines(touched, target.seen))
        self._move_mark(target, seq)

    def _outlines(self, touched: _Touched, after: int) -> tuple[list[Outline], list[Outline]]:
        """Return what an index must hold and what must leave it first, whatever the newest event said."""
        ids = [id_ for id_, seq in touched.newest.items() if seq > after]
        found = self._ledger.outlines.get_many(ids)
        wanted = [outline for outline, status, current in found if current and status in INDEXED]
        held = {outline.id for outline in wanted} - {*touched.rekeyed}
        return wanted, [outline for outline, _, _ in found if outline.id not in held]

    def _stored_mark(self, target: _Target) -> int:
        name = target.mark_name()
        return self._ledger.memories.index_mark(name) if name else 0

    def _move_mark(self, target: _Target, seq: int) -> None:
        name = target.mark_name()
        if name and seq - target.marked >= target.lag and not target.waiting():
            self._ledger.memories.set_index_mark(name, seq)
            target.marked = seq
        target.seen = seq


class _Touched(NamedTuple):
    """Memories that some events are about."""

    newest: Mapping[str, int]
    """Number of the newest event by memory."""
    rekeyed: Collection[str]
    """Those that may have fewer keys than before."""


class _Target(Protocol):
    """An index that follows the ledger."""

    seen: int
    """Last event that it followed."""
    marked: int
    """Last event that the ledger knows it to have followed; it starts from there when it is opened."""
    lag: int
    """Events that may be followed twice, so that not every one costs a transaction for its mark."""
    is_own: bool
    """Whether no other process writes to it."""

    def prepare(self, wanted: Sequence[Outline]) -> None: ...
    def apply(self, wanted: Sequence[Outline], gone: Sequence[Outline]) -> None: ...
    def clear(self) -> None: ...
    def mark_name(self) -> str: ...
    def waiting(self) -> int: ...


class _Vectors:
    """The vector index."""

    is_own, lag = False, 1

    def __init__(self, index: Any, embedder: Embedder) -> None:
        self.index = index
        self.seen = self.marked = 0
        self._embedder = embedder

    def prepare(self, wanted: Sequence[Outline]) -> None:
        """Embed before the lock is taken; the embedder's cache holds the vectors."""
        self._embedder.embed([text for outline in wanted for text in key_texts(outline).values()])

    def apply(self, wanted: Sequence[Outline], gone: Sequence[Outline]) -> None:
        for partition, group in _by_partition(gone).items():
            self.index.delete([outline.id for outline in group], partition)
        rows = [(outline, name, text) for outline in wanted for name, text in key_texts(outline).items()]
        if not rows:
            return
        vectors = self._embedder.embed([text for _, _, text in rows])
        places: dict[str, list[int]] = {}
        for row, (outline, _, _) in enumerate(rows):
            places.setdefault(partition_of(outline.scope), []).append(row)
        for partition, at in places.items():
            self.index.add(
                [f"{rows[row][0].id}/{rows[row][1]}" for row in at],
                vectors[at],
                [rows[row][0].id for row in at],
                [rows[row][1] for row in at],
                partition,
            )

    def clear(self) -> None:
        self.index.clear()

    def waiting(self) -> int:
        waiting = getattr(self.index, "waiting", None)
        return int(waiting()) if waiting is not None else 0

    def mark_name(self) -> str:
        identity = getattr(self.index, "identity", "")
        return f"{identity}:{self._embedder.fingerprint}" if identity else ""


class _Words:
    """The index of words: keys, tools and content of each memory."""

    is_own, lag = True, 200

    def __init__(self, index: LexicalIndex) -> None:
        self.index = index
        self.seen = self.marked = 0

    def prepare(self, wanted: Sequence[Outline]) -> None:
        return None

    def apply(self, wanted: Sequence[Outline], gone: Sequence[Outline]) -> None:
        rows = []
        for outline in wanted:
            if not key_texts(outline):
                continue  # what has no key is meant to be found by nothing
            rows.append((outline.id, partition_of(outline.scope), word_text(outline)))
        self.index.change(rows, [outline.id for outline in gone])

    def clear(self) -> None:
        self.index.clear()

    def waiting(self) -> int:
        return 0  # what it is told it has written

    def mark_name(self) -> str:
        return f"words:{self.index.identity}" if self.index.identity else ""


def _empty(target: _Target) -> None:
    target.clear()
    target.seen = target.marked = 0


def _by_partition(outlines: Iterable[Outline]) -> dict[str, list[Outline]]:
    groups: dict[str, list[Outline]] = {}
    for outline in outlines:
        groups.setdefault(partition_of(outline.scope), []).append(outline)
    return groups
