"""`agentkd stop`: the kill switch of a workspace."""

from __future__ import annotations

import click

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.shared import Command
from agentkd.stop import StopFile

__all__ = ["command"]


@click.command("stop", cls=Command)
@click.argument("reason", nargs=-1)
@click.option("--off", is_flag=True, help="Let the workspace go on.")
@pass_invocation
def command(invocation: Invocation, reason: tuple[str, ...], off: bool) -> None:
    """Stop a workspace: no process in it asks a model or runs a tool until it is let go on.

    Writes the file STOP into the workspace. It is looked for before every call of a model or a tool and
    between the items of every phase; what is done is kept, and commands end with exit code 11. A call under
    way is awaited, not broken off.
    """
    invocation.require_workspace()
    switch = StopFile(invocation.root)
    if off:
        invocation.note("it may go on" if switch.lift() else "it was not stopped")
    else:
        switch.set(" ".join(reason))
        invocation.note("stopped; `agentkd stop --off` lets it go on")
    invocation.show({"stopped": switch.reason()}, lambda value, console: None)
