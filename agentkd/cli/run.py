"""`agentkd run`: run the agent over a suite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agentkd.cli.cost import run_estimate, spent_by
from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.shared import Command

if TYPE_CHECKING:
    from agentkd.workspace import Workspace

__all__ = ["command"]


@click.command("run", cls=Command)
@click.option("--suite", help="Suite to run [default: `[cycle] suite`].")
@click.option("--split", help="Split of the suite [default: `[cycle] split`].")
@click.option("-n", "n", type=click.IntRange(min=1), help="Number of tasks [default: `[cycle] n`, else all].")
@click.option("--model", help="Model or role that acts [default: the actor].")
@pass_invocation
def command(
    invocation: Invocation, suite: str | None, split: str | None, n: int | None, model: str | None
) -> None:
    """Run the agent over a suite and keep what happened."""
    with invocation.workspace() as workspace:
        invocation.note(_estimate(workspace, suite, n))
        summary = workspace.run(suite=suite, split=split, n=n, model=model or "actor")
        invocation.show(
            summary,
            lambda s, console: console.print(
                f"{s.run_id}: {s.succeeded} of {s.n} tasks done"
                + (f", {s.rescued} of {s.retried} more when tried again" if s.retried else "")
                + (f" ({s.done_before} were done before)" if s.done_before else ""),
                markup=False,
            ),
        )
        invocation.note(spent_by(summary.usage, summary.seconds))


def _estimate(workspace: Workspace, suite: str | None, n: int | None) -> str:
    name, count = suite or workspace.settings.cycle.suite, n or workspace.settings.cycle.n
    return run_estimate(workspace, name, count) if name and count else ""
