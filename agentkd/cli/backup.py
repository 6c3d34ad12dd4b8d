"""`agentkd backup`: a copy of the workspace of one moment, while others use it."""

from __future__ import annotations

from pathlib import Path

import click

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.shared import Command

__all__ = ["command"]


@click.command("backup", cls=Command)
@click.argument("target", type=click.Path(path_type=Path))
@pass_invocation
def command(invocation: Invocation, target: Path) -> int:
    """Write the workspace of one moment into a folder, while it is used.

    Ledger, datasets, checkpoints and reports come into the new folder TARGET. Cycles and agents may go on
    meanwhile. The index is left out: `agentkd restore` makes it anew. Exit code 1 where files were gone or
    damaged that the ledger speaks of; all else is in the backup then.
    """
    with invocation.workspace() as workspace:
        manifest = workspace.backup(target)
    facts = ", ".join(f"{n} {kind}" for kind, n in manifest.counts.items() if n) or "an empty ledger"
    invocation.show(
        manifest, lambda value, console: console.print(f"{len(value.files)} files in {target}: {facts}")
    )
    for name in manifest.missing:
        invocation.note(f"left out, its files are gone or damaged: {name}")
    return 1 if manifest.missing else 0
