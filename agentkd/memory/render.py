"""Recalled memories as text for a prompt: plain lines, the most similar last, between fixed delimiters.

Every memory is put on lines of its own with its line breaks removed, so that no text that was learnt
from can end the notes and go on as an instruction. A skill's text keeps its lines, for the sake of code and
lists: each is indented, so that none stands where a memory or the end of the notes does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from agentkd.hf import call_text
from agentkd.protocols import Embedder
from agentkd.schema import NOTES_BEGIN, NOTES_END, Hit, Memory

__all__ = ["BEGIN", "END", "fitting", "render", "token_counter"]

BEGIN = NOTES_BEGIN
"""First line of every rendered recall."""
END = NOTES_END
"""Last line of every rendered recall."""

_SKILL = "import:skill"


def render(
    hits: Sequence[Hit],
    max_chars: int,
    max_tokens: int = 0,
    count: Callable[[str], int] | None = None,
) -> str:
    """Return the notes for a prompt; empty where nothing was recalled or fits.

    Args:
        hits: What was recalled, best first.
        max_chars: Longest text, delimiters included; a memory that does not fit whole is left out.
        max_tokens: Longest text in tokens, delimiters included; 0 sets no such limit.
        count: Counts the tokens of a text; by default four letters are one.
    """
    kept = [text for _, text in _kept(hits, max_chars, max_tokens, count)]
    return "\n".join([BEGIN, *reversed(kept), END]) if kept else ""


def fitting(
    hits: Sequence[Hit],
    max_chars: int,
    max_tokens: int = 0,
    count: Callable[[str], int] | None = None,
) -> list[Hit]:
    """Return the hits that `render` shows under the same limits, best first."""
    return [hit for hit, _ in _kept(hits, max_chars, max_tokens, count)]


def _kept(
    hits: Sequence[Hit], max_chars: int, max_tokens: int, count: Callable[[str], int] | None
) -> list[tuple[Hit, str]]:
    """Return the hits that fit with their text: one that does not fit leaves its room to the next ones."""
    count = count or _quarter
    left = max_chars - len(BEGIN) - len(END) - 1
    tokens_left = float(max_tokens - count(BEGIN) - count(END)) if max_tokens else math.inf
    kept: list[tuple[Hit, str]] = []
    for hit in hits:
        text = _line(hit.text) if hit.text else _text(hit.memory)
        tokens = count(text) if max_tokens else 0
        if len(text) + 1 <= left and tokens <= tokens_left:
            kept.append((hit, text))
            left -= len(text) + 1
            tokens_left -= tokens
    return kept


def token_counter(embedder: Embedder) -> Callable[[str], int]:
    """Return what counts tokens: the embedder's tokenizer, or a guess where it shows none."""
    found: Callable[[str], int] = getattr(embedder, "count_tokens", _quarter)
    return found


def _quarter(text: str) -> int:
    return -(-len(text) // 4)


def _text(memory: Memory) -> str:
    if memory.kind != "case" and memory.when_to_use.strip() in ("", memory.content.strip()):
        return f"Known: {_line(memory.content)}"  # a fact without a situation of its own
    if memory.kind != "case":
        words = _block(memory.content) if memory.origin == _SKILL else f" {_line(memory.content)}"
        return f"When {_line(memory.when_to_use)}:{words}"
    said = [f"Call: {call_text(call)}" for call in memory.calls]
    if not said:
        _, _, answer = memory.content.partition("\nAnswer: ")
        said = [f"Answer: {_line(answer or memory.content)}"]
    return "\n".join([f"Request: {_line(memory.when_to_use or memory.keys.task)}", *said])


def _block(text: str) -> str:
    """Return a text as indented lines below its heading, without any that say what only the frame may say."""
    lines = [line.rstrip() for line in text.strip().splitlines()]
    if len(lines) == 1:
        return f" {_line(text)}"
    return "".join(f"\n  {line}".rstrip(" ") for line in lines if line.strip() not in (BEGIN, END))


def _line(text: str) -> str:
    return " ".join(text.split())
