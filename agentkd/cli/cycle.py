"""`agentkd cycle`: all phases, resumable."""

from __future__ import annotations

import click

from agentkd.cli.cost import cycle_estimate
from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.render import print_cycle
from agentkd.cli.shared import Command

__all__ = ["command"]


@click.command("cycle", cls=Command)
@click.option("--rounds", type=click.IntRange(min=1), help="Cycles in a row [default: `[cycle] rounds`].")
@pass_invocation
def command(invocation: Invocation, rounds: int | None) -> None:
    """Go through all phases: run, distill, compile, train, evaluate, promote.

    A killed cycle goes on where it stopped when the same command is given again.
    """
    with invocation.workspace() as workspace:
        invocation.note(cycle_estimate(workspace))
        report = workspace.cycle(rounds=rounds)
        invocation.show(report, print_cycle)
        invocation.note(f"report: {workspace.report_path(report.number)}")
