"""Signs that an entry of a memory store is no lesson: judged by its text alone, for a person to look at."""

from __future__ import annotations

import re
from typing import Literal

from agentkd.schema import NOTES_BEGIN, NOTES_END, Memory

__all__ = ["junk_sign", "quotes_recall"]

JunkSign = Literal["", "empty", "short", "instance-only"]

_FEWEST_WORDS, _FEWEST_LETTERS = 3, 12
_WORD = re.compile(r"[^\W\d_]{2,}")
_INSTANCE = re.compile(
    r"https?://\S+|\S+@\S+|\"[^\"\n]*\"|'[^'\n]*'(?!\w)|`[^`\n]*`|\S*\d\S*|\S*[=/\\_]\S*"
)  # links, addresses, quoted values, whatever holds a digit, paths and assignments
_RECALL = re.compile(
    rf"{re.escape(NOTES_BEGIN)}|^\s*{re.escape(NOTES_END)}"
    r"|</?(?:(?:relevant|retrieved|recalled|user|long[_-]term)[_-])?memor(?:y|ies)(?:[_-]context)?>"
    r"|^\W*(?:relevant|retrieved|recalled|user) memories\s*:",
    re.IGNORECASE | re.MULTILINE,
)


def quotes_recall(memory: Memory) -> bool:
    """Whether a memory quotes a block of recalled notes, of ours or of another memory system."""
    return any(_RECALL.search(text) for text in (memory.when_to_use, memory.content))


def junk_sign(memory: Memory) -> JunkSign:
    """Return the sign that fits; a lesson needs words of its own, accepted calls are one already."""
    text = memory.content.strip()
    if memory.calls or memory.kind == "case":
        return ""
    if not text:
        return "empty"
    if len(_WORD.findall(text)) < _FEWEST_WORDS and sum(map(str.isalpha, text)) < _FEWEST_LETTERS:
        return "short"
    general = _INSTANCE.sub(" ", text)
    few = len(_WORD.findall(general)) < _FEWEST_WORDS and sum(map(str.isalpha, general)) < _FEWEST_LETTERS
    return "instance-only" if few else ""
