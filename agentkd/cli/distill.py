"""`agentkd distill`: from trajectories and corrections to memories."""

from __future__ import annotations

import click

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.render import print_phase
from agentkd.cli.shared import Command

__all__ = ["command"]


@click.command("distill", cls=Command)
@click.argument("run_id", required=False)
@pass_invocation
def command(invocation: Invocation, run_id: str | None) -> None:
    """Turn trajectories and corrections into memories.

    RUN_ID limits it to one run; without it, all that the ledger holds is looked at again.
    """
    with invocation.workspace() as workspace:
        invocation.show(workspace.distill(run_id), print_phase)
