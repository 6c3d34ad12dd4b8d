"""What a person decides about a memory: quarantine, activate, undo. All of it is kept as events."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.shared import Command

if TYPE_CHECKING:
    from agentkd.schema import MemoryStatus

__all__ = ["activate", "admit", "quarantine", "undo"]


@click.command("quarantine", cls=Command)
@click.argument("memory_id")
@click.argument("reason")
@pass_invocation
def quarantine(invocation: Invocation, memory_id: str, reason: str) -> None:
    """Keep a memory from being recalled until it is activated again.

    REASON is kept in the ledger.
    """
    with invocation.workspace() as workspace:
        changed = workspace.memory.set_status(memory_id, "quarantined", f"person: {reason}")
    _say(invocation, memory_id, changed, "quarantined", "was in quarantine before")


@click.command("activate", cls=Command)
@click.argument("memory_id")
@click.argument("reason")
@pass_invocation
def activate(invocation: Invocation, memory_id: str, reason: str) -> None:
    """Bring back a memory that was quarantined or laid to rest.

    What had put it away does not do so again. REASON is kept in the ledger.
    """
    with invocation.workspace() as workspace:
        changed = workspace.memory.activate(memory_id, f"person: {reason}")
    _say(invocation, memory_id, changed, "active again", "was active before")


@click.command("admit", cls=Command)
@click.argument("memory_ids", nargs=-1, required=True, metavar="ID...")
@click.option("--reason", default="looked at and admitted", help="Why; kept in the ledger.")
@pass_invocation
def admit(invocation: Invocation, memory_ids: tuple[str, ...], reason: str) -> None:
    """Let memories in that wait in quarantine because their sources are untrusted.

    `agentkd memory list --status quarantined` shows what waits, `agentkd memory show ID` its sources. All of
    them are admitted, or none where one is unknown or was revoked.
    """
    with invocation.workspace() as workspace:
        done = workspace.memory.let_in(memory_ids, f"person: {reason}")
        statuses = workspace.ledger.memories.status_for(ids=memory_ids)
    lines = {id_: "admitted" if id_ in done else _why_not(id_, statuses.get(id_)) for id_ in memory_ids}
    invocation.show(
        {"admitted": list(done)}, lambda v, _: click.echo("\n".join(f"{i}: {w}" for i, w in lines.items()))
    )


def _why_not(memory_id: str, status: MemoryStatus | None) -> str:
    if status in ("quarantined", "tombstone"):  # put away by a person or a refiner, not by the gate
        return (
            f"did not wait for admission, but is {status} for another reason: "
            f"`agentkd memory activate {memory_id} REASON` brings it back"
        )
    return "did not wait for admission"


@click.command("undo", cls=Command)
@click.argument("memory_id")
@click.argument("reason", default="")
@pass_invocation
def undo(invocation: Invocation, memory_id: str, reason: str) -> None:
    """Take the last merge, new version or change of status of a memory back.

    Of a merge, all parts become current again. The refiner that made the edit does not repeat it.
    """
    with invocation.workspace() as workspace:
        changed = workspace.memory.undo(memory_id, reason)
    invocation.show(
        {"id": memory_id, "changed": list(changed)},
        lambda v, _: click.echo(f"taken back; changed: {', '.join(v['changed'])}"),
    )


def _say(invocation: Invocation, memory_id: str, changed: bool, done: str, was: str) -> None:
    word = done if changed else was
    invocation.show({"id": memory_id, "changed": changed}, lambda v, _: click.echo(f"{memory_id}: {word}"))
