"""What a memory says, apart from how: two memories are near copies when their lessons are equal.

A lesson is the accepted calls of a `case`, else the text without differences of case, spaces and
closing punctuation.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from agentkd.memory.scope import partition_of
from agentkd.schema import Memory, canonical_json, content_id

if TYPE_CHECKING:
    from agentkd.ledger import Ledger

__all__ = ["lesson_of", "name_lessons", "normalise"]


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


def name_lessons(ledger: Ledger) -> int:
    """Say the lesson of memories that came in by another way than admission; returns their number."""
    named = 0
    while missing := ledger.memories.without_lesson():
        ledger.memories.set_lessons({memory.id: lesson_of(memory) for memory in missing})
        named += len(missing)
    return named
