"""The table of an evaluation as plain text cells, the same for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Sequence

from agentkd.schema import ArmResult, Evaluation, Interval, TransferCell, TransferRow, Value

__all__ = ["Table", "evaluation_table", "interval_text", "transfer_table"]

_PART_TITLES = {"tool_choice": "tool choice", "valid_call": "valid call"}


class Table(Value):
    """Headings and rows of text."""

    columns: tuple[str, ...]
    """Headings."""
    rows: tuple[tuple[str, ...], ...]
    """One row per arm, one cell per heading."""


def interval_text(interval: Interval) -> str:
    """Return a figure with its bounds, such as `0.345 [0.283, 0.413]`."""
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def evaluation_table(evaluation: Evaluation) -> Table:
    """Lay out an evaluation: one row per arm, its parts before the figure that counts.

    The column of success is headed `whole call right` where the arms are judged by tool choice.
    Tokens and seconds are means per task; a baseline without a model has none.
    """
    parts = tuple(dict.fromkeys(part for arm in evaluation.arms for part in arm.parts))
    success = "whole call right" if "tool_choice" in parts else "done"
    titles = [_PART_TITLES.get(part, part.replace("_", " ")) for part in parts]
    return Table(
        columns=("arm", *titles, success, "prompt tokens", "seconds"),
        rows=tuple(_row(arm, parts) for arm in evaluation.arms),
    )


def _row(arm: ArmResult, parts: tuple[str, ...]) -> tuple[str, ...]:
    shares = [f"{arm.parts[part].value:.3f}" if part in arm.parts else "" for part in parts]
    costs = [f"{arm.prompt_tokens:.0f}", f"{arm.seconds:.2f}"] if arm.model else ["", ""]
    return (arm.title, *shares, interval_text(arm.success), *costs)


def transfer_table(rows: Sequence[TransferRow]) -> Table:
    """Lay out the backward-transfer matrix: a row per cycle's candidate, a column per cycle's tasks.

    A cell is the share done, then the difference to what that cycle's own candidate did, with McNemar's p.
    """
    columns = {cell.cycle: f"{cell.suite}/{cell.split}" for row in rows for cell in row.cells}
    numbers = sorted(columns)
    return Table(
        columns=("cycle", "candidate", *(f"cycle {number}: {columns[number]}" for number in numbers)),
        rows=tuple(
            (str(row.cycle), row.checkpoint, *(_cell_text(row, number) for number in numbers)) for row in rows
        ),
    )


def _cell_text(row: TransferRow, number: int) -> str:
    cell: TransferCell | None = next((one for one in row.cells if one.cycle == number), None)
    if cell is None:
        return ""
    if cell.paired is None:
        return interval_text(cell.success)
    change = cell.paired.difference.value
    return f"{interval_text(cell.success)} {change:+.3f} (p {cell.paired.p_value:.2g})"
