"""Two tokenisations of one text: which tokens begin together, and which stretches end together.

Everything is counted in bytes of the completion's text. The token that ends the turn is written differently
in every template and counts as one byte after the text, so that it is aligned as well.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["Alignment", "TokenBytes", "align", "label_bytes"]

Stretch = tuple[int, int]
"""First byte of a token and the byte after its last; (-1, -1) for a token outside the text."""


@dataclass(frozen=True)
class Alignment:
    """What the labels of a student and the tokens of a teacher have in common."""

    starts: tuple[tuple[int, int], ...]
    """Pairs (label of the student, token of the teacher) that begin at the same byte."""
    spans: tuple[tuple[int, int, int, int], ...]
    """Smallest stretches that both end: (first label, label after the last, first token, token after it)."""


def align(student: Sequence[Stretch], teacher_ends: Sequence[int]) -> Alignment:
    """Align the labels of a student with the tokens of a teacher.

    Args:
        student: Bytes of each label; labels outside the text hold (-1, -1) and are never aligned.
        teacher_ends: Byte after the last of each teacher token; the first token begins at 0.
    """
    teacher_starts = [0, *teacher_ends[:-1]]
    first_at: dict[int, int] = {}
    for token, start in enumerate(teacher_starts):
        if teacher_ends[token] > start:
            first_at.setdefault(start, token)
    starts = tuple(
        (label, first_at[start])
        for label, (start, end) in enumerate(student)
        if end > start >= 0 and start in first_at
    )
    after = {end: token + 1 for token, end in enumerate(teacher_ends)}
    return Alignment(starts, tuple(_spans(student, first_at, after)))


def _spans(
    student: Sequence[Stretch], first_at: dict[int, int], after: dict[int, int]
) -> list[tuple[int, int, int, int]]:
    """Return the stretches; one that a label without weight interrupts is left out."""
    spans = []
    first: int | None = None
    expected = -1
    for label, (start, end) in enumerate(student):
        if end <= start or start != expected:  # outside the text, or tokens before it are no labels
            first = None
        if end > start and first is None and start in first_at:
            first = label
        expected = end if end > start else -1
        if first is not None and end in after:
            spans.append((first, label + 1, first_at[student[first][0]], after[end]))
            first = None
    return spans


class TokenBytes:
    """The bytes that each token of a tokenizer stands for."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Read from the tokenizer how it writes bytes: byte-level, or pieces with `▁` and `<0x..>`."""
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        self._is_byte_level = "ByteLevel" in json.dumps(backend.get("decoder"))
        self._added = {int(entry["id"]): str(entry["content"]) for entry in backend.get("added_tokens", ())}
        self._tokenizer = tokenizer

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> TokenBytes:
        """Return the one of this tokenizer; it is made once."""
        if tokenizer not in _made:
            _made[tokenizer] = cls(tokenizer)
        return _made[tokenizer]

    def __call__(self, token: int) -> bytes:
        """Return the bytes of a token; empty for an id outside the vocabulary."""
        if token in self._added:
            return self._added[token].encode()
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:
            return b""
        if self._is_byte_level:
            table = _byte_of()
            return bytes(table[char] for char in piece if char in table)
        if len(piece) == 6 and piece.startswith("<0x"):
            return bytes([int(piece[3:5], 16)])
        return str(piece).replace("\u2581", " ").encode()


_made: WeakKeyDictionary[PreTrainedTokenizerFast, TokenBytes] = WeakKeyDictionary()


@functools.cache
def _byte_of() -> dict[str, int]:
    """Return the table of byte-level BPE: printable bytes stand for themselves, others from U+0100."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


def label_bytes(
    ids: Sequence[int], labels: Sequence[int], text: bytes, token_bytes: TokenBytes, ends: Collection[int]
) -> tuple[Stretch, ...] | None:
    """Return the bytes of each label of a row whose last tokens spell `text`; None where they do not.

    Args:
        ids: Token ids of the row, `[time]`.
        labels: Ascending positions that are predicted; the last one is the last of the row.
        text: What the completion says.
        token_bytes: Bytes of the tokens.
        ends: Tokens that end a turn.
    """
    position, after = len(ids) - 1, len(text)
    stretches: dict[int, Stretch] = {}
    if ids[position] in ends:
        stretches[position] = (after, after + 1)
        position -= 1
    while after > 0 and position >= 0:
        piece = token_bytes(ids[position])
        if piece == b" " + text[:after]:  # pieces that begin a text with a space of their own
            piece = piece[1:]
        if not text[:after].endswith(piece):
            return None
        stretches[position] = (after - len(piece), after)
        after -= len(piece)
        position -= 1
    if after > 0:
        return None
    return tuple(stretches.get(label, (-1, -1)) for label in labels)
