"""`agentkd memory lift`: what recall is worth per scope, and each memory, with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.render import print_table, shortened
from agentkd.cli.shared import Command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from agentkd.memory import LiftReport, MemoryLift
    from agentkd.schema import Lift

__all__ = ["lift"]

_FIELDS = ("tenant", "app", "agent", "user")


@click.command("lift", cls=Command)
@click.option(
    "--scope-by", "fields", multiple=True, type=click.Choice(_FIELDS),
    help="Field that tells scopes apart; repeatable [default: all].",
)  # fmt: skip
@click.option(
    "-n", "n", type=click.IntRange(min=1), default=10, show_default=True,
    help="So many of the best memories, and as many of the worst.",
)  # fmt: skip
@pass_invocation
def lift(invocation: Invocation, fields: tuple[str, ...], n: int) -> None:
    """Show how much more often tasks are done with memories than without.

    Trials measure it: on a share of the tasks, `[memory] trial_share`, one memory or all are withheld.
    """
    from agentkd.memory import lift_report

    with invocation.workspace() as workspace:
        report = lift_report(workspace.ledger, workspace.settings.memory, fields or _FIELDS)
    invocation.show(report, lambda found, console: _print_report(found, n, console))


def _print_report(report: LiftReport, n: int, console: Console) -> None:
    from agentkd.agents import scope_text

    rows = [
        (
            scope_text(each.scope),
            *_cells(each.lift),
            each.n_one,
            each.n_open,
            _RECALL[each.is_off],
        )
        for each in report.scopes
    ]
    columns = ["scope", *_COLUMNS, "one withheld", "ungraded", "recall"]
    print_table(console, columns, rows, empty="no task has recalled anything yet")
    best, worst = report.memories[:n], report.memories[n:][-n:]
    for title, memories in (("best memories", best), ("worst memories", worst)):
        if memories:
            console.print(f"\n[bold]{title}[/]")
            _print_memories(memories, console)
    if report.n_unmeasured:
        console.print(f"{report.n_unmeasured} memories were never recalled by a graded task", style="dim")


_RECALL = {True: "off, but on trials", False: "on", None: "off for some"}
_COLUMNS = ("lift", "done with", "done without", "harm")


def _cells(lift: Lift) -> tuple[str, ...]:
    return (
        f"{lift.value:+.2f} [{lift.low:+.2f}, {lift.high:+.2f}]",
        f"{lift.wins_with}/{lift.n_with}",
        f"{lift.wins_without}/{lift.n_without}",
        f"{lift.p_negative:.3f}",
    )


def _print_memories(memories: Sequence[MemoryLift], console: Console) -> None:
    rows = [(m.memory_id, m.status, *_cells(m.lift), shortened(m.when_to_use, 48)) for m in memories]
    print_table(console, ["id", "status", *_COLUMNS, "when to use"], rows)
