"""`agentkd synthesize`: an exam of the student, and what a teacher writes about it."""

from __future__ import annotations

import click

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.render import print_phase
from agentkd.cli.shared import Command

__all__ = ["command"]


@click.command("synthesize", cls=Command)
@click.argument("synthesizers", nargs=-1)
@click.option("-n", "n_items", type=click.IntRange(min=1), help="Items [default: `[synthesize] max_items`].")
@click.option("--dry-run", is_flag=True, help="Ask no teacher; say what it would cost at most.")
@pass_invocation
def command(
    invocation: Invocation, synthesizers: tuple[str, ...], n_items: int | None, dry_run: bool
) -> None:
    """Assess the student and let a teacher write what it lacks.

    SYNTHESIZERS default to those of `[synthesize]`; `[roles] teacher` writes. What passes every check is
    compiled by `agentkd compile` like what happened, up to `[synthesize] max_share`.
    """
    with invocation.workspace() as workspace:
        report = workspace.synthesize(synthesizers, n_items=n_items, is_dry=dry_run)
    invocation.show(report, print_phase)
