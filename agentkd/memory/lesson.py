"""What a memory says, apart from how: two memories are near copies when their lessons are equal.

A lesson is the accepted calls of a `case`, else the text without differences of case, spaces and
closing punctuation.
"""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING

from agentkd.memory.scope import partition_of
from agentkd.schema import Memory, canonical_json, content_id

if TYPE_CHECKING:
    from agentkd.ledger import Ledger

__all__ = ["Lessons", "lesson_of", "normalise"]


def normalise(text: str) -> str:
    """Return a text without differences that carry no meaning."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(".!;, ")


def lesson_of(memory: Memory) -> str:
    """Return a hash of kind, scope and lesson; equal for memories that say the same to the same people."""
    said = (
        [canonical_json([call.name, call.arguments]) for call in memory.calls]
        if memory.calls
        else normalise(memory.content)
    )
    return content_id("les", memory.kind, partition_of(memory.scope), said)


class Lessons:
    """Which memories of the ledger teach the same; follows the ledger by its events."""

    def __init__(self, ledger: Ledger) -> None:
        self._memories = ledger.memories
        self._by_lesson: dict[str, list[str]] = {}
        self._known: set[str] = set()
        self._seen = 0
        self._lock = threading.Lock()

    def alike(self, lessons: Iterable[str]) -> dict[str, list[str]]:
        """Return the ids of the memories that teach each lesson, in the order of their admission."""
        with self._lock:
            self._follow()
            return {lesson: list(self._by_lesson.get(lesson, ())) for lesson in lessons}

    def _follow(self) -> None:
        events = self._memories.events(self._seen)
        fresh = dict.fromkeys(e.memory_id for e in events if e.kind == "admitted")
        for memory in self._memories.get_many(id_ for id_ in fresh if id_ not in self._known):
            self._known.add(memory.id)
            self._by_lesson.setdefault(lesson_of(memory), []).append(memory.id)
        self._seen = events[-1].seq if events else self._seen
