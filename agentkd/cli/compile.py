"""`agentkd compile`: from memories and trajectories to a dataset."""

from __future__ import annotations

import click

from agentkd.cli.datasets import print_card
from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.shared import Command

__all__ = ["command"]


@click.command("compile", cls=Command)
@pass_invocation
def command(invocation: Invocation) -> None:
    """Compile memories and trajectories into a dataset."""
    with invocation.workspace() as workspace:
        invocation.show(workspace.compile(), print_card)
    invocation.note("next: `agentkd datasets show` prints its rows, `agentkd train` trains on it")
