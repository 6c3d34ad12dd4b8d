"""`agentkd memory history` and `agentkd memory diff`: what happened to memories, and what changed."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.memory_view import print_memories
from agentkd.cli.moment import MOMENT
from agentkd.cli.render import print_facts, print_table, shortened
from agentkd.cli.shared import Command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from agentkd.ledger import MemoryEvent
    from agentkd.memory.timeline import MemoryChange, MemoryHistory, PoolChange

__all__ = ["diff", "history"]


@click.command("history", cls=Command)
@click.argument("memory_id")
@pass_invocation
def history(invocation: Invocation, memory_id: str) -> None:
    """Show all versions of a memory, what happened to them and why, and how they were used."""
    from agentkd.memory.timeline import read_history

    with invocation.workspace() as workspace:
        found = read_history(workspace.ledger, memory_id)
    invocation.show(found, _print_history)


@click.command("diff", cls=Command)
@click.argument("first", required=False)
@click.argument("second", required=False)
@click.option("--since", type=MOMENT, help="Show what happened to the pool after this time.")
@click.option("--until", type=MOMENT, help="With `--since`: up to this time [default: now].")
@pass_invocation
def diff(
    invocation: Invocation,
    first: str | None,
    second: str | None,
    since: datetime | None,
    until: datetime | None,
) -> None:
    """Compare two memories field by field, or the pool at two times.

    FIRST and SECOND are ids, such as two versions of one memory. A time is a date such as 2026-11-22, or how
    long ago it was: 3d, 12h, 90m.
    """
    from agentkd.memory.timeline import compare, pool_change
    from agentkd.schema import now

    if since is None and (first is None or second is None or until is not None):
        raise click.UsageError("give two ids, or --since with or without --until")
    if since is not None and first is not None:
        raise click.UsageError("give two ids or --since, not both")
    until = until or now()
    if since is not None and since >= until:
        raise click.UsageError(
            f"--since has to be before --until, and {since:%Y-%m-%d %H:%M:%S} is not before "
            f"{until:%Y-%m-%d %H:%M:%S}"
        )
    with invocation.workspace() as workspace:
        if since is not None:
            change = pool_change(workspace.ledger, since, until)
            invocation.show(change, _print_pool_change)
        else:
            memories = workspace.ledger.memories
            found = compare(memories.get(str(first)), memories.get(str(second)))
            invocation.show(found, _print_change)


def _print_history(found: MemoryHistory, console: Console) -> None:
    print_memories(list(found.versions), console, found.replaced)
    console.print()
    _print_events(found.events, console)
    console.print()
    used = f"shown to {found.n_shown} runs, {found.n_won} of them done; withheld from {found.n_withheld}"
    print_facts(console, [("use", used)])


def _print_events(events: Sequence[MemoryEvent], console: Console) -> None:
    rows = [
        (
            e.seq,
            f"{e.happened_at:%Y-%m-%d %H:%M:%S}",
            e.memory_id,
            e.kind,
            "" if e.checkpoint == "base" else e.checkpoint,
            e.reason,
        )
        for e in events
    ]
    print_table(console, ["event", "when (UTC)", "id", "what", "checkpoint", "why"], rows, empty="no events")


def _print_change(change: MemoryChange, console: Console) -> None:
    rows = [(c.field, _cell(c.before), _cell(c.after)) for c in change.changes]
    print_table(console, ["field", change.first, change.second], rows, empty="no difference")


def _cell(value: Any) -> str:
    return "" if value is None else shortened(str(value), 200)


def _print_pool_change(change: PoolChange, console: Console) -> None:
    print_facts(
        console,
        [
            ("since", f"{change.since:%Y-%m-%d %H:%M} UTC"),
            ("until", f"{change.until:%Y-%m-%d %H:%M} UTC"),
            ("memories", f"{change.n_before} before, {change.n_after} after"),
            ("events", ", ".join(f"{n} {kind}" for kind, n in change.counts.items())),
        ],
    )
    console.print()
    _print_events(change.events, console)
