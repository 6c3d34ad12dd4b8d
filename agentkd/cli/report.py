"""`agentkd report`: the report of a cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.render import print_cycle, print_table, shortened
from agentkd.cli.shared import Command

if TYPE_CHECKING:
    from rich.console import Console

    from agentkd.cycle.recompute import Recomputation

__all__ = ["command"]

MOST_SHOWN = 40
"""Differing figures that are listed for people."""


@click.command("report", cls=Command)
@click.argument("number", type=click.IntRange(min=1), required=False)
@click.option("--path", "wants_path", is_flag=True, help="Print only the path of report.html.")
@click.option("--open", "opens", is_flag=True, help="Open report.html in the browser.")
@click.option(
    "--recompute", "recomputes", is_flag=True,
    help="Compute every figure of the report again from the ledger; exit code 1 where one differs.",
)  # fmt: skip
@pass_invocation
def command(
    invocation: Invocation, number: int | None, wants_path: bool, opens: bool, recomputes: bool
) -> int:
    """Show the report of a cycle.

    NUMBER defaults to the latest cycle.
    """
    with invocation.workspace() as workspace:
        if recomputes:
            done = workspace.recompute(number)
            invocation.show(done, _print_recomputation)
            return int(bool(done.differing))
        path = workspace.report_path(number)
        if wants_path:
            invocation.show(path, lambda p, console: click.echo(str(p)))
        else:
            invocation.show(workspace.report(number), print_cycle)
            invocation.note(f"report: {path}")
    if opens:
        click.launch(path.as_uri())
    return 0


def _print_recomputation(done: Recomputation, console: Console) -> None:
    parts = ", ".join(f"{n} of {name}" for name, n in done.sections.items())
    said = f"{len(done.differing)} differ" if done.differing else "all as reported"
    console.print(f"{done.cycle_id}: {done.n} figures computed again ({parts}): {said}", markup=False)
    for note in done.left_out:
        console.print(f"left out: {note}", markup=False)
    if done.differing:
        rows = [(f.name, _cell(f.reported), _cell(f.recomputed)) for f in done.differing[:MOST_SHOWN]]
        print_table(console, ["figure", "reported", "in the ledger"], rows)
    if len(done.differing) > MOST_SHOWN:
        console.print(f"and {len(done.differing) - MOST_SHOWN} more: see `--json`", markup=False)


def _cell(value: Any) -> str:
    return "" if value is None else shortened(str(value), 60)
