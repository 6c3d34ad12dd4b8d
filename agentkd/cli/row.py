"""A training row for people: trained tokens in colour, by weight, or in brackets where there is no colour."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from agentkd.schema import Example, Rendered

__all__ = ["Decode", "RowView", "print_row", "spans"]

Decode = Callable[[Sequence[int]], str]

_SHADES = ((0.5, "green"), (1.0, "bold green"), (float("inf"), "bold black on green"))
_REJECTED = "bold red"


@dataclass(frozen=True)
class RowView:
    """What of a row is printed."""

    decode: Decode | None
    """Turns token ids into text; None prints the ids."""
    is_teacher: bool = False
    """The teacher's view in place of the student's."""
    has_rejected: bool = False
    """The rejected completion after the right one."""


def spans(rendered: Rendered, decode: Decode) -> list[tuple[str, float]]:
    """Return a rendering as (text, loss weight) spans."""
    pairs = zip(rendered.ids, rendered.weights, strict=True)
    return [
        (decode([token for token, _ in group]), weight)
        for weight, group in groupby(pairs, key=lambda pair: pair[1])
    ]


def print_row(row: Example, view: RowView, console: Console) -> None:
    """Print the tokens of a row and what it was made from."""
    from rich.text import Text

    facts = [row.kind, row.id, f"task {row.task_id}", f"weight {row.weight:g}", row.provenance.teacher]
    console.rule("  ".join(filter(None, facts)), style="dim", align="left")
    rendered = row.teacher if view.is_teacher else row.student
    if rendered is None:
        console.print("this row has no teacher view", style="dim")
    else:
        _print_spans(spans(rendered, view.decode or _ids), console, is_rejected=False)
    wrong = row.student_rejected
    if wrong is not None and (view.has_rejected or row.kind == "negative"):
        said = [span for span in spans(wrong, view.decode or _ids) if span[1]]
        console.print("rejected:", style="dim")
        _print_spans(said, console, is_rejected=True)
    made_from = [*row.provenance.trajectories, *row.provenance.corrections, *row.provenance.memories]
    console.print(Text(f"from {', '.join(made_from)}", style="dim"))


def _print_spans(found: Sequence[tuple[str, float]], console: Console, *, is_rejected: bool) -> None:
    from rich.text import Text

    is_plain = not console.color_system or console.no_color
    shown = Text()
    for text, weight in found:
        _append(shown, text, weight, is_plain=is_plain, is_rejected=is_rejected)
    console.print(shown)


def _append(shown: Text, text: str, weight: float, *, is_plain: bool, is_rejected: bool) -> None:
    if not weight:
        shown.append(text, style="dim")
    elif is_plain:
        mark = "✗ " if is_rejected else "" if weight == 1.0 else f"x{weight:g} "
        shown.append(f"⟦{mark}{text}⟧")
    else:
        style = next(style for most, style in _SHADES if weight <= most)
        shown.append(text, style=_REJECTED if is_rejected else style)


def _ids(ids: Sequence[int]) -> str:
    return f" {list(ids)} "
