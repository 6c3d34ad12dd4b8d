"""`agentkd datasets signals`: what the cache of teacher signals holds, and whether it is whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.render import print_table
from agentkd.cli.shared import Command

if TYPE_CHECKING:
    from rich.console import Console

    from agentkd.train.artefact import CacheFacts

__all__ = ["command"]


@click.command("signals", cls=Command)
@click.option(
    "--drop-unused",
    type=click.FloatRange(min=1),
    metavar="DAYS",
    help="First drop what no training used for so many days; whoever needs it again computes it again.",
)
@pass_invocation
def command(invocation: Invocation, drop_unused: float | None) -> None:
    """Show the cached teacher signals: rows, tokens, size, probability outside the top, damage.

    Every shard is checked against its CRC; a damaged one is computed again by the next training.
    """
    from agentkd.train import artefact

    with invocation.workspace() as workspace:
        root = workspace.root / "signals"
        for name in artefact.drop_unused(root, drop_unused) if drop_unused is not None else ():
            invocation.note(f"dropped {name}: not used for {drop_unused:g} days")
        found = artefact.inspect_caches(root)
    invocation.show(found, _print)


def _print(caches: Sequence[CacheFacts], console: Console) -> None:
    rows = [
        (
            cache.teacher,
            cache.unit,
            cache.top_k,
            cache.n_rows,
            cache.n_tokens,
            f"{cache.n_bytes / 2**20:.2f}",
            f"{cache.mean_tail:.4f}",
            f"{cache.mean_surprise:.3f}",
            cache.n_damaged,
        )
        for cache in caches
    ]
    columns = ["teacher", "aligned by", "top k", "rows", "tokens", "MiB", "tail", "nats/token", "damaged"]
    print_table(console, columns, rows, empty="no signals yet: a training with a teacher caches them")
