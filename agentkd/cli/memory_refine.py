"""`agentkd memory refine`: merge, supersede, prune and expire memories now, without a cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.render import print_table, shortened
from agentkd.cli.shared import Command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from agentkd.memory import Edit

__all__ = ["refine"]


@click.command("refine", cls=Command)
@click.argument("refiners", nargs=-1, metavar="[REFINER]...")
@pass_invocation
def refine(invocation: Invocation, refiners: tuple[str, ...]) -> None:
    """Let refiners merge, supersede, prune and expire memories now, as a cycle would.

    REFINER is a component of that kind, such as `ttl` [default: `[memory] refiners`]. Every edit is an event
    that `agentkd memory undo` takes back.
    """
    with invocation.workspace() as workspace:
        edits = workspace.refine(refiners)
    invocation.show(edits, _print)


def _print(edits: Sequence[Edit], console: Console) -> None:
    rows = [(edit.memory_id, _became(edit), shortened(edit.reason, 90)) for edit in edits]
    print_table(console, ["memory", "became", "why"], rows, empty="nothing to change")


def _became(edit: Edit) -> str:
    if edit.refusal:
        return f"unchanged: {edit.refusal}"
    return f"a part of {edit.replacement}" if edit.replacement else edit.status
