"""Turns views into tokens with a loss mask, and rows back into text that can be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from agentkd import hf
from agentkd.errors import DataError
from agentkd.schema import Example, Message, Rendered

__all__ = ["describe_row", "render_view"]


class RowRefused(Exception):
    """A row cannot be trained on; the message is the reason that the card counts."""


def render_view(
    tokenizer: Any, view: Sequence[Message], target: Message, *, max_tokens: int, name: str = "row"
) -> Rendered:
    """Return a view and its target as tokens; the mask was checked by decoding it.

    Raises RowRefused where the row is longer than `max_tokens` (it is never cut) or where the trained
    tokens do not read exactly as the target.
    """
    try:
        rendered = hf.render_example(tokenizer, view, target)
    except DataError as error:
        raise RowRefused(f"{name} cannot be rendered exactly") from error
    if len(rendered.ids) > max_tokens:
        raise RowRefused(f"{name} longer than {max_tokens} tokens")
    _check_mask(tokenizer, rendered, target)
    return rendered


def _check_mask(tokenizer: Any, rendered: Rendered, target: Message) -> None:
    """Refuse a row whose weighted tokens are not the target's text and one end-of-turn token at the end."""
    trained = [index for index, weight in enumerate(rendered.weights) if weight]
    is_tail = bool(trained) and trained == list(range(trained[0], len(rendered.ids)))
    ids = [rendered.ids[index] for index in trained]
    ends = hf.end_ids(tokenizer)
    if (
        not is_tail
        or ids[-1] not in ends
        or _decode(tokenizer, ids[:-1]) != hf.as_text(target)
        or ends.intersection(ids[:-1])
    ):
        raise RowRefused("loss mask does not decode to the target")


def describe_row(example: Example, tokenizer: Any) -> list[tuple[str, float]]:
    """Return the student's row as (text, loss weight) pieces of equal weight, special tokens shown."""
    pairs = zip(example.student.ids, example.student.weights, strict=True)
    return [
        (_decode(tokenizer, [token for token, _ in run]), weight)
        for weight, run in groupby(pairs, key=lambda pair: pair[1])
    ]


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
