"""How wide the columns of a table are in a terminal: ids stay whole, other texts fold at their spaces."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["fitted_widths"]

_LONG = 24  # a cell beyond this is free text
_TEXT = 16  # and gets at least so many columns: in fewer it reads as a column of syllables
_WORD = 40  # ids and names are shorter; a path or a URL beyond this may be folded anywhere
_ID = re.compile(r"\S*[a-z]-[0-9a-f]{12,}\S*")


def fitted_widths(columns: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """Return a width for each column, given as its texts, in which no id or short cell breaks within a word.

    What is left after the least widths goes to the narrowest columns first: short ones become whole. None
    where the room is too narrow.
    """
    from rich.cells import cell_len

    wanted = [max(map(cell_len, texts)) for texts in columns]
    widths = [_least(texts, most) for texts, most in zip(columns, wanted, strict=True)]
    left = room - sum(widths)
    if left < 0:
        return None
    while left and widths != wanted:
        _, narrowest = min((width, i) for i, width in enumerate(widths) if width < wanted[i])
        widths[narrowest] += 1
        left -= 1
    return widths


def _least(texts: Sequence[str], most: int) -> int:
    from rich.cells import cell_len

    is_free = most > _LONG and any(" " in text for text in texts)
    words = (word for text in texts for word in (_ID.findall(text) if is_free else text.split()))
    longest = max((width for width in map(cell_len, words) if width <= _WORD), default=1)
    return min(most, max(longest, _TEXT if most > _LONG else 1))
