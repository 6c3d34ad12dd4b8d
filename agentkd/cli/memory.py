"""`agentkd memory`: look at, search, edit and take back memories."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.memory_audit import audit
from agentkd.cli.memory_calibrate import calibrate
from agentkd.cli.memory_edit import activate, admit, quarantine, undo
from agentkd.cli.memory_exchange import export, import_
from agentkd.cli.memory_history import diff, history
from agentkd.cli.memory_lift import lift
from agentkd.cli.memory_refine import refine
from agentkd.cli.memory_revoke import revoke
from agentkd.cli.memory_view import print_hits, print_memories, print_memory, why_none, why_nothing
from agentkd.cli.moment import MOMENT
from agentkd.cli.scope import named, scope_options
from agentkd.cli.shared import Group, newest_option
from agentkd.errors import NotFoundError

__all__ = ["command"]

_STATUSES = ["candidate", "quarantined", "active", "compiled", "retired", "tombstone", "revoked"]


_at = click.option(
    "--at", type=MOMENT, help="As it was then: a date, a time in UTC, or how long ago (3d, 12h)."
)


@click.group("memory", cls=Group)
def command() -> None:
    """Look at, search, rebuild and revoke memories."""


@command.command("list")
@click.option("--status", type=click.Choice(_STATUSES), help="Only memories with this status.")
@click.option("--kind", help="Only memories of this kind, such as `case` or `pitfall`.")
@scope_options("Only memories of this {}.")
@newest_option
@_at
@pass_invocation
def list_(
    invocation: Invocation, /, status: Any, kind: str | None, n: int, at: datetime | None, **scope: str | None
) -> None:
    """List memories, oldest first."""
    owner, kinds = named(scope), [kind] if kind else None
    with invocation.workspace() as workspace:
        memories = workspace.ledger.memories
        found = memories.list(status, kinds=kinds, limit=n or None, latest=True, at=at, owner=owner)
        tally = memories.tally(at=at)
    fitting = [
        each
        for each in tally
        if status in (None, each.status)
        and kind in (None, each.kind)
        and owner.items() <= each.scope.model_dump().items()
    ]
    empty = why_none(tally, kind, at)
    invocation.show(found, lambda found, console: print_memories(found, console, empty=empty))
    invocation.note_hidden(len(found), sum(each.n for each in fitting))


@command.command("show")
@click.argument("memory_id")
@_at
@pass_invocation
def show(invocation: Invocation, memory_id: str, at: datetime | None) -> None:
    """Show one memory with its evidence and its use."""
    with invocation.workspace() as workspace:
        memory = workspace.ledger.memories.get(memory_id)
        replaced = workspace.ledger.memories.successors([memory_id])
        if at is not None:
            then = [m for m in workspace.ledger.memories.list(at=at) if m.id == memory_id]
            if not then:
                raise NotFoundError(f"memory `{memory_id}` was not current at {at:%Y-%m-%d %H:%M} UTC")
            memory, replaced = then[0], {}
    told = {**memory.model_dump(mode="json"), "replaced_by": replaced.get(memory_id, "")}
    invocation.show(told, lambda told, console: print_memory(memory, console, replaced))


@command.command("recall")
@click.argument("text")
@click.option("-k", "k", type=click.IntRange(min=1), help="At most so many [default: `[memory] k`].")
@scope_options("Recall as this {}.")
@_at
@pass_invocation
def recall(
    invocation: Invocation, /, text: str, k: int | None, at: datetime | None, **given: str | None
) -> None:
    """Show what an agent would recall for TEXT, now or at an earlier time (then by meaning alone).

    The best comes first: by meaning and words together, where the column shows the cosine of meaning alone.
    It is asked in the scope `[memory] scope`, as the application `[cycle] suite`; options name another.
    """
    from agentkd.cycle.parts import checkpoint_of

    with invocation.workspace() as workspace:
        scope, suite = workspace.settings.memory.scope, workspace.settings.cycle.suite
        scope, serving = scope.model_copy(update=named(given)), "base"
        if given["app"] is None and suite:
            scope = scope.of_suite(suite)
        if at is None:
            serving = checkpoint_of(workspace.parts.resolve("actor"))
            is_served = workspace.parts.role_model("actor") == "student"
            if is_served and workspace.parts.aside.route(text, serving) is not None:
                workspace.parts.progress.say(f"`{serving}` is tainted and stands aside here: the base acts")
                serving = "base"
            hits = workspace.memory.recall(text, k, scope=scope, checkpoint=serving)
        else:
            hits = workspace.memory.recall_at(text, at, k, scope=scope)
        empty = "" if hits else why_nothing(scope, workspace.ledger.memories.tally(serving, at=at))
    invocation.show(hits, lambda hits, console: print_hits(hits, console, empty=empty))
    if invocation.is_json:
        invocation.note(empty)


@command.command("rebuild")
@pass_invocation
def rebuild(invocation: Invocation) -> None:
    """Restore the index from the ledger: it holds nothing else."""
    with invocation.workspace() as workspace:
        answer = workspace.memory.rebuild()
    invocation.show(
        {"n_events": answer}, lambda v, console: click.echo(f"index rebuilt from {v['n_events']} events")
    )


for verb in (history, diff, revoke, quarantine, activate, admit, undo):
    command.add_command(verb)
command.add_command(refine)
command.add_command(audit)
command.add_command(calibrate)
command.add_command(lift)
command.add_command(import_)
command.add_command(export)
