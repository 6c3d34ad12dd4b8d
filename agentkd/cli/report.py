"""`agentkd report`: the report of a cycle."""

from __future__ import annotations

import click

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.render import print_cycle
from agentkd.cli.shared import Command

__all__ = ["command"]


@click.command("report", cls=Command)
@click.argument("number", type=click.IntRange(min=1), required=False)
@click.option("--path", "wants_path", is_flag=True, help="Print only the path of report.html.")
@click.option("--open", "opens", is_flag=True, help="Open report.html in the browser.")
@pass_invocation
def command(invocation: Invocation, number: int | None, wants_path: bool, opens: bool) -> None:
    """Show the report of a cycle.

    NUMBER defaults to the latest cycle.
    """
    with invocation.workspace() as workspace:
        path = workspace.report_path(number)
        if wants_path:
            invocation.show(path, lambda p, console: click.echo(str(p)))
        else:
            invocation.show(workspace.report(number), print_cycle)
            invocation.note(f"report: {path}")
    if opens:
        click.launch(path.as_uri())
