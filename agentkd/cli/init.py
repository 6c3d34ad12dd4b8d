"""`agentkd init`: create a workspace."""

from __future__ import annotations

from pathlib import Path

import click

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.shared import Command

__all__ = ["command"]


@click.command("init", cls=Command)
@click.argument("folder", required=False, type=click.Path(file_okay=False, path_type=Path))
@click.option("--suite", default="", help="Suite that cycles learn on.")
@click.option("--force", is_flag=True, help="Write the settings file anew where there is one; keep all else.")
@pass_invocation
def command(invocation: Invocation, folder: Path | None, suite: str, force: bool) -> None:
    """Create a workspace."""
    from agentkd.plugins import nearest
    from agentkd.workspace import Workspace

    root = (folder or invocation.root).expanduser()
    with Workspace.create(root, suite=suite, force=force) as workspace:
        known = workspace.parts.registry.names("suite")
    if suite and suite not in known:
        invocation.note(f"no plugin here offers a suite `{suite}` yet ({nearest(suite, known)})")
    created = {"workspace": str(root.resolve()), "settings": str((root / "agentkd.toml").resolve())}
    invocation.show(
        created, lambda value, console: console.print(f"created {value['settings']}", markup=False)
    )
    steps = "`agentkd cycle`" if suite else "set `[cycle] suite`, then `agentkd cycle`"
    invocation.note(f"next: {'' if root == Path() else f'cd {root}, then '}{steps}")
