"""`agentkd restore`: put a backup into the workspace's folder, and make its index anew."""

from __future__ import annotations

from pathlib import Path

import click

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.shared import Command

__all__ = ["command"]


@click.command("restore", cls=Command)
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace the workspace at hand; it is moved aside, not deleted.")
@pass_invocation
def command(invocation: Invocation, source: Path, force: bool) -> None:
    """Put a backup into the workspace's folder.

    SOURCE comes into the folder of `-C`, and the index is made anew.

    Every file is compared with its hash first. An `agentkd.toml` at hand stays.
    """
    from agentkd.workspace.backup import renew_index, restore

    manifest, old = restore(source, invocation.root, force=force)
    with invocation.workspace() as workspace:
        renew_index(workspace)
        found = workspace.memory.check()
    invocation.show(
        manifest,
        lambda value, console: console.print(
            f"{len(value.files)} files as of {value.created_at:%Y-%m-%d %H:%M:%S} UTC; "
            f"{found.n_vectors} vectors of {found.n_memories} memories made anew"
        ),
    )
    if old is not None:
        invocation.note(f"what was here before is in {old}")
