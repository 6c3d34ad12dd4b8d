"""Values as tables for people; JSON goes another way."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from agentkd.cli.cost import spent_by
from agentkd.cli.progress import clock_text
from agentkd.cli.width import fitted_widths

if TYPE_CHECKING:
    from rich.console import Console

    from agentkd.cycle.schedule import Due
    from agentkd.schema import (
        Checkpoint,
        CorrectionRound,
        CycleReport,
        Evaluation,
        PhaseReport,
        Placement,
        TransferRow,
        Verdict,
    )

__all__ = [
    "bytes_text",
    "print_checkpoint",
    "print_cycle",
    "print_diagnoses",
    "print_due",
    "print_evaluation",
    "print_facts",
    "print_phase",
    "print_placements",
    "print_rounds",
    "print_table",
    "print_transfer",
    "print_verdict",
    "shortened",
]

_SHORT = 24  # cells up to here are never folded: names and intervals stay whole


def shortened(text: str, width: int = 72) -> str:
    """Return one line of at most `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def bytes_text(n_bytes: float) -> str:
    """Return bytes as `92.9 MB` (decimal units)."""
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} GB"


def print_table(
    console: Console, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str = "none"
) -> None:
    """Print rows under bold headings, numbers to the right; `empty` where there are none.

    In a terminal too narrow for this, texts fold, then empty columns go, then a row becomes a line per field.
    """
    cells = [list(row) for row in rows]
    if not cells:
        console.print(empty, style="dim")
        return
    texts = [[f"{c:,}" if isinstance(c, int) else str(c) for c in row] for row in cells]
    with_headings = [list(column) for column in zip(columns, *texts, strict=True)]
    numbers = {i for i, column in enumerate(zip(*cells, strict=True)) if all(map(_is_number, column))}
    if not console.is_terminal:
        _print_columns(console, dict(enumerate(with_headings)), numbers)
        return
    filled = [i for i, column in enumerate(with_headings) if any(column[1:])]
    for gap, kept in ((2, range(len(columns))), (2, filled), (1, filled)):
        shown = {i: with_headings[i] for i in kept}
        widths = fitted_widths(list(shown.values()), console.width - gap * (len(shown) - 1))
        if widths is not None:
            _print_columns(console, shown, numbers, gap, widths)
            return
    for row in texts:  # no table is narrow enough
        print_facts(console, zip(columns, row, strict=True))
        console.print()


def _print_columns(
    console: Console,
    columns: Mapping[int, Sequence[str]],
    numbers: Collection[int],
    gap: int = 2,
    widths: Sequence[int] = (),
) -> None:
    """Print columns under their first text, some as numbers; without `widths` long cells alone fold."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for number, (index, (name, *texts)) in enumerate(columns.items()):
        justify: Literal["left", "right"] = "right" if index in numbers else "left"
        width = widths[number] if widths else None
        is_short = not widths and max(map(len, texts)) <= _SHORT
        table.add_column(name, justify=justify, overflow="fold", no_wrap=is_short, width=width)
    for row in zip(*(texts[1:] for texts in columns.values()), strict=True):
        table.add_row(*map(escape, row))
    console.print(table)


def _is_number(cell: Any) -> bool:
    return isinstance(cell, (int, float)) or (
        isinstance(cell, str) and cell.replace(",", "").replace(".", "", 1).isdigit()
    )


def print_facts(console: Console, facts: Iterable[tuple[str, Any]]) -> None:
    """Print `name  value` lines; empty values are left out."""
    from rich.markup import escape
    from rich.table import Table

    told = [(name, str(value)) for name, value in facts if value not in ("", None, (), {}, [])]
    table = Table.grid(padding=(0, 2, 0, 0))
    names, values = [name for name, _ in told], [value for _, value in told]
    widths = fitted_widths([names, values], console.width - 2) if console.is_terminal and told else None
    table.add_column(style="dim", no_wrap=widths is None, width=widths[0] if widths else None)
    table.add_column(overflow="fold")
    for name, value in told:
        table.add_row(escape(name), escape(value))
    console.print(table)


def print_rounds(rounds: Sequence[CorrectionRound], console: Console) -> None:
    """Print corrections per task, a row per run."""
    rows = [
        (
            r.run_id,
            r.n_tasks,
            r.n_corrections,
            f"{r.per_task:.2f}",
            ", ".join(f"{s} {n}" for s, n in r.by_source.items()),
        )
        for r in rounds
    ]
    print_table(console, ["run", "tasks", "corrections", "per task", "by"], rows, empty="no runs yet")


def print_phase(report: PhaseReport, console: Console) -> None:
    """Print what a phase did, its sentence first and its cost last."""
    console.print(f"{report.name}: {report.summary or report.status}", markup=False)
    if report.usage:
        console.print(spent_by(report.usage, report.seconds), style="dim", markup=False)
    else:
        console.print(f"{clock_text(report.seconds)}, no model was called", style="dim")


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print a row per arm, then the paired comparisons of the candidate."""
    from rich.markup import escape

    from agentkd.evaluate import evaluation_table, interval_text

    console.print(
        f"[bold]{escape(evaluation.suite)} / {escape(evaluation.split)}[/]: {evaluation.n} tasks, "
        f"seed {evaluation.seed}"
    )
    table = evaluation_table(evaluation)
    print_table(console, table.columns, table.rows)
    if evaluation.paired:
        console.print()
        print_table(
            console,
            ["paired", "against", "difference", "wins", "losses", "p (McNemar)"],
            [
                [p.ours, p.other, interval_text(p.difference), p.wins, p.losses, f"{p.p_value:.2g}"]
                for p in evaluation.paired
            ],
        )
    print_diagnoses(evaluation, console)


def print_diagnoses(evaluation: Evaluation, console: Console, most: int = 10) -> None:
    """Print what each evaluator found: its sentences, and the first rows of its table."""
    from rich.markup import escape

    for diagnosis in evaluation.diagnoses:
        console.print()
        console.print(f"[bold]{escape(diagnosis.evaluator)}[/]: {escape(' '.join(diagnosis.notes))}")
        if diagnosis.flags:
            console.print(f"flagged: {', '.join(diagnosis.flags)}", style="yellow", markup=False)
        if diagnosis.rows:
            cells = [[shortened(cell, 48) for cell in row] for row in diagnosis.rows[:most]]
            print_table(console, diagnosis.columns, cells)
            left = len(diagnosis.rows) - most
            if left > 0:
                console.print(f"{left} further rows: `--json`", style="dim", markup=False)


def print_transfer(rows: Sequence[TransferRow], console: Console) -> None:
    """Print the backward-transfer matrix: a row per candidate, a column per cycle whose tasks it did."""
    from agentkd.evaluate import transfer_table

    table = transfer_table(rows)
    if len(table.rows) > 1:
        console.print()
        print_table(console, table.columns, table.rows)


def print_verdict(
    verdict: Verdict, console: Console, words: tuple[str, str] = ("promoted", "not promoted")
) -> None:
    """Print the gate's decision, in the words for yes and no, and every reason."""
    from rich.markup import escape

    word = f"[green]{words[0]}[/]" if verdict.promote else f"[yellow]{words[1]}[/]"
    console.print(f"[bold]{escape(verdict.checkpoint)}[/] {word} (against {escape(verdict.against)})")
    for reason in verdict.reasons:
        console.print(f"  - {reason}", markup=False)


def print_placements(placements: Sequence[Placement], console: Console) -> None:
    """Print where clusters of memories belong, the most recalled first."""
    rows = [
        [p.cluster, len(p.memories), p.n, p.place, p.reason.rpartition("; best")[0] or p.reason]
        for p in placements
    ]
    print_table(console, ["memories about", "number", "tasks", "place", "why"], rows)
    console.print()


def print_due(due: Due, console: Console) -> None:
    """Print whether a cycle is due, and why or why not."""
    console.print(f"{'due' if due.is_due else 'not due'}: {due.reason}", markup=False)


def print_cycle(report: CycleReport, console: Console) -> None:
    """Print a cycle: phases, arms, verdict and what serves now."""
    from rich.markup import escape

    console.print(f"[bold]{escape(report.id)}[/] on {escape(report.suite or 'what the ledger holds')}")
    print_table(
        console,
        ["phase", "status", "seconds", "CPU-s", "what it did"],
        [[p.name, p.status, f"{p.seconds:.1f}", f"{p.cpu_seconds:.1f}", p.summary] for p in report.phases],
    )
    for evaluation in report.evaluations:
        console.print()
        print_evaluation(evaluation, console)
    console.print()
    if report.placements:
        print_placements(report.placements, console)
    if report.corrections:
        steps = [f"{each.per_task:.2f}" for each in report.corrections[-8:]]
        console.print(f"corrections per task, run by run: {' -> '.join(steps)}", markup=False)
    print_transfer(report.transfer, console)
    if report.verdict is not None:
        print_verdict(report.verdict, console)
    for verdict in report.rejected:
        print_verdict(verdict, console, ("promoted", "rejected"))
    if report.stopped:
        console.print(f"{report.stopped}; the same command goes on from here", markup=False)
    console.print(f"serving: [bold]{escape(report.serving)}[/]")
    console.print(_cycle_cost(report), style="dim", markup=False)
    console.print(
        f"every figure again from the ledger: agentkd report {report.number} --recompute", style="dim"
    )


def _cycle_cost(report: CycleReport) -> str:
    totals: dict[str, float] = {}
    for phase in report.phases:
        for name, amount in phase.usage.items():
            totals[name] = totals.get(name, 0.0) + amount
    if any(phase.usage and "usd" not in phase.usage for phase in report.phases):
        totals.pop("usd", None)
    return spent_by(totals, sum(phase.seconds for phase in report.phases))


def print_checkpoint(checkpoint: Checkpoint, console: Console) -> None:
    """Print a checkpoint with its origin, figures and status."""
    figures = ", ".join(f"{name} {value:g}" for name, value in checkpoint.metrics.items())
    print_facts(
        console,
        [
            ("name", checkpoint.name),
            ("status", checkpoint.status),
            ("base", checkpoint.base),
            ("base id", checkpoint.base_id),
            ("dataset", checkpoint.dataset_id),
            ("parent", checkpoint.parent),
            ("trained", f"{checkpoint.n_parameters:,} parameters"),
            ("figures", figures),
            ("objective", ", ".join(checkpoint.settings.objective)),
            ("created", f"{checkpoint.created_at:%Y-%m-%d %H:%M} UTC"),
            ("files", ", ".join(sorted(checkpoint.files))),
        ],
    )
