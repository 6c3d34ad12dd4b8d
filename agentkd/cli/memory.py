"""`agentkd memory`: look at, search, rebuild and revoke memories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.render import print_facts, print_table, shortened
from agentkd.cli.shared import Group

if TYPE_CHECKING:
    from rich.console import Console

    from agentkd.memory import Audit
    from agentkd.schema import Hit, Memory

__all__ = ["command"]

_STATUSES = ["candidate", "quarantined", "active", "compiled", "retired", "revoked"]


@click.group("memory", cls=Group)
def command() -> None:
    """Look at, search, rebuild and revoke memories."""


@command.command("list")
@click.option("--status", type=click.Choice(_STATUSES), help="Only memories with this status.")
@click.option("--kind", help="Only memories of this kind, such as `case` or `pitfall`.")
@click.option("-n", "n", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@pass_invocation
def list_(invocation: Invocation, status: Any, kind: str | None, n: int) -> None:
    """List memories, oldest first."""
    with invocation.workspace() as workspace:
        found = workspace.ledger.memories.list(status=status, kinds=[kind] if kind else None, limit=n)
    invocation.show(found, _print_memories)


@command.command("show")
@click.argument("memory_id")
@pass_invocation
def show(invocation: Invocation, memory_id: str) -> None:
    """Show one memory with its evidence and its use."""
    with invocation.workspace() as workspace:
        memory = workspace.ledger.memories.get(memory_id)
    invocation.show(memory, _print_memory)


@command.command("recall")
@click.argument("text")
@click.option("-k", "k", type=click.IntRange(min=1), help="At most so many [default: `[memory] k`].")
@click.option("--app", default=None, help="Suite or application whose memories are meant [default: all].")
@pass_invocation
def recall(invocation: Invocation, text: str, k: int | None, app: str | None) -> None:
    """Show what an agent would recall for TEXT."""
    with invocation.workspace() as workspace:
        scope = None
        if app is not None:
            scope = workspace.settings.memory.scope.model_copy(update={"app": app})
        hits = workspace.memory.recall(text, k, scope=scope)
    invocation.show(hits, _print_hits)


@command.command("history")
@click.argument("memory_id")
@pass_invocation
def history(invocation: Invocation, memory_id: str) -> None:
    """Show all versions of a memory, first version first."""
    with invocation.workspace() as workspace:
        invocation.show(workspace.memory.history(memory_id), _print_memories)


@command.command("rebuild")
@pass_invocation
def rebuild(invocation: Invocation) -> None:
    """Restore the index from the ledger: it holds nothing else."""
    with invocation.workspace() as workspace:
        answer = workspace.memory.rebuild()
    invocation.show(
        {"n_events": answer}, lambda v, console: click.echo(f"index rebuilt from {v['n_events']} events")
    )


@command.command("revoke")
@click.argument("memory_id")
@click.argument("reason")
@pass_invocation
def revoke(invocation: Invocation, memory_id: str, reason: str) -> None:
    """Take a memory out of use for good and taint what was made from it.

    REASON is kept in the ledger.
    """
    with invocation.workspace() as workspace:
        changed = workspace.memory.revoke(memory_id, reason)
    word = "revoked" if changed else "was revoked before"
    invocation.show({"id": memory_id, "changed": changed}, lambda v, _: click.echo(f"{memory_id}: {word}"))


@command.command("audit")
@pass_invocation
def audit(invocation: Invocation) -> int:
    """Look for copies, unused memories, loops and a damaged index.

    Exit code 1 where the index does not hold what the ledger calls for.
    """
    with invocation.workspace() as workspace:
        found = workspace.memory.audit()
    invocation.show(found, _print_audit)
    if found.n_vectors == found.n_vectors_expected:
        return 0
    invocation.note("the index differs from the ledger: run `agentkd memory rebuild`")
    return 1


def _print_audit(found: Audit, console: Console) -> None:
    print_facts(
        console,
        [
            ("memories", found.n),
            ("by status", ", ".join(f"{n} {status}" for status, n in found.by_status.items())),
            ("by kind", ", ".join(f"{n} {kind}" for kind, n in found.by_kind.items())),
            ("exact copies", "; ".join(" = ".join(group) for group in found.exact_copies)),
            ("near copies", len(found.near_copies)),
            ("contradictions", sum(not pair.same_lesson for pair in found.near_copies)),
            ("never recalled", len(found.never_recalled)),
            ("loops", ", ".join(found.loops)),
            ("vectors", f"{found.n_vectors} of {found.n_vectors_expected}"),
        ],
    )


def _print_memories(memories: list[Memory], console: Console) -> None:
    rows = [(m.id, m.kind, m.status, m.support, f"{m.utility.wins}/{m.utility.recalls}",
             shortened(f"{m.when_to_use} -> {m.content}")) for m in memories]  # fmt: skip
    print_table(console, ["id", "kind", "status", "support", "wins", "lesson"], rows, empty="no memories yet")


def _print_hits(hits: list[Hit], console: Console) -> None:
    rows = [(f"{h.score:.3f}", h.key, h.memory.id, h.memory.kind, shortened(h.memory.content)) for h in hits]
    print_table(
        console, ["score", "key", "id", "kind", "lesson"], rows, empty="nothing is similar enough to recall"
    )


def _print_memory(memory: Memory, console: Console) -> None:
    print_facts(
        console,
        [
            ("id", memory.id),
            ("kind", memory.kind),
            ("status", f"{memory.status}, version {memory.version}"),
            ("when to use", memory.when_to_use),
            ("content", memory.content),
            ("calls", "; ".join(f"{c.name} {c.arguments}" for c in memory.calls)),
            ("scope", ", ".join(f"{k}={v}" for k, v in memory.scope.model_dump().items() if v)),
            ("support", memory.support),
            ("utility", f"{memory.utility.wins} wins in {memory.utility.recalls} recalls"),
            ("confidence", f"{memory.confidence:.2f} ({memory.origin})"),
            ("trajectories", ", ".join(memory.evidence.trajectories)),
            ("corrections", ", ".join(memory.evidence.corrections)),
            ("parent", memory.parent),
            ("created", f"{memory.created_at:%Y-%m-%d %H:%M} UTC"),
        ],
    )
