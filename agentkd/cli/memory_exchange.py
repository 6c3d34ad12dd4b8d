"""`agentkd memory import` and `export`: memories from other systems, and to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.render import print_facts, print_table, shortened
from agentkd.cli.scope import named, scope_options
from agentkd.cli.shared import Command
from agentkd.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rich.console import Console

    from agentkd.interop import ImportReport
    from agentkd.schema import Memory

__all__ = ["export", "import_"]

_FORMATS = ["pack", "reme", "ace", "mem0", "langmem", "skill"]
_STATUSES = ["quarantined", "active", "compiled", "retired", "tombstone", "revoked"]
_SHOWN = 10


@click.command("import", cls=Command)
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--format", "format_", type=click.Choice(_FORMATS), help="Its format [default: by content].")
@click.option("--app", default="", help="Application or suite that the memories are for.")
@click.option("--agent", default="", help="Agent that they are for.")
@click.option("--user", default="", help="User whom they belong to; such memories are private.")
@click.option("--tenant", default="", help="Organisation whom they belong to.")
@click.option("--quarantine", is_flag=True, help="Store them, but recall none before it is activated.")
@click.option("--evidence", is_flag=True, help="Take over the trajectories that a pack brings along.")
@click.option("--dry-run", is_flag=True, help="Read and count, store nothing.")
@pass_invocation
def import_(
    invocation: Invocation,
    /,
    path: Path,
    format_: str | None,
    quarantine: bool,
    evidence: bool,
    dry_run: bool,
    **scope: str,
) -> int:
    """Import the memories of another system, of a skill or of a pack.

    PATH is a ReMe library, an ACE playbook, a mem0 or LangMem export, a folder with SKILL.md files, or a
    memory pack. All readable entries are stored at one time or none, each with an answer; importing a file
    again stores nothing new. Exit code 1 where an entry was skipped, rejected or failed.
    """
    from agentkd.interop import (
        admit_evidence,
        admit_imported,
        preview,
        read_evidence,
        read_foreign,
        refuse_leaks,
    )
    from agentkd.schema import Scope

    imported = read_foreign(path, format_ or "")
    if evidence and imported.format != "pack":
        raise ConfigError(
            f"a file of format `{imported.format}` holds no evidence", hint="leave --evidence out"
        )
    wanted = Scope(**scope)
    with invocation.workspace() as workspace:
        if dry_run:
            own = workspace.settings.memory.scope
            report = preview(imported, own, workspace.ledger, scope=wanted)
        else:
            if evidence:
                brought = read_evidence(path)
                refuse_leaks(brought.trajectories, workspace.parts)
                n_new = admit_evidence(brought, workspace.ledger, str(path))
                invocation.note(f"{n_new} trajectories and corrections taken over")
            report = admit_imported(
                imported, workspace.memory, workspace.ledger, scope=wanted, quarantine=quarantine
            )
    invocation.show(report, _print_report)
    refused = report.outcomes.get("rejected", 0) + report.outcomes.get("failed", 0)
    return int(bool(refused or report.skipped))


@click.command("export", cls=Command)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--format", "format_", type=click.Choice(_FORMATS), default="pack", show_default=True)
@click.option("--status", "statuses", type=click.Choice(_STATUSES), multiple=True,
              help="Only of this status; repeatable [default: active, compiled, retired].")  # fmt: skip
@click.option("--kind", "kinds", multiple=True, help="Only memories of this kind; repeatable.")
@scope_options("Only memories of this {}.")
@click.option(
    "--evidence", is_flag=True, help="Put the trajectories that they rest on into the pack, redacted."
)
@click.option("--force", is_flag=True, help="Replace a file, or a skill that was exported before.")
@pass_invocation
def export(
    invocation: Invocation, /, path: Path, format_: str, statuses: tuple[str, ...], kinds: tuple[str, ...],
    evidence: bool, force: bool, **scope: str | None,
) -> None:  # fmt: skip
    """Write memories to PATH in the format of another system, or as a memory pack.

    A pack loses nothing. ReMe, mem0 and LangMem files say in their metadata whose a memory is. A playbook
    or a skill cannot: memories of one user, tenant or agent and private ones stay out of it, unless an option
    names whose memories to write; private ones stay out of a skill, which every agent may read, in any case.
    """
    from agentkd.interop import evidence_of, left_out, why_left_out, with_life, write_foreign
    from agentkd.schema import Scope, now

    wanted = named(scope)
    asked = Scope(**wanted)
    with invocation.workspace() as workspace:
        workspace.ledger.items.drop_expired(now())
        memories: Sequence[Memory] = workspace.ledger.memories.list(
            status=statuses or ("active", "compiled", "retired"),  # type: ignore[arg-type]
            kinds=kinds or None,
        )
        memories = [m for m in memories if all(getattr(m.scope, n) == value for n, value in wanted.items())]
        memories = [m for m in memories if not m.counters]  # they answer to students of this workspace alone
        faults = left_out(memories, format_, asked)
        memories = [memory for memory in memories if memory.id not in faults]
        if not memories and faults:
            raise DataError(
                f"a file of format `{format_}` can hold none of these memories: {why_left_out(faults)}",
                hint="use `--format pack`, or name whose memories to write with --user, --tenant or --agent",
            )
        if not memories:
            raise DataError("no memory fits these options", hint="`agentkd memory list` shows what there is")
        along = evidence_of(memories, workspace.ledger) if evidence else None
        memories = with_life(memories, workspace.ledger)
        written = write_foreign(memories, path, format_, evidence=along, replace=force, scope=asked)
    if faults:
        invocation.note(
            f"{len(faults)} memories left out, for which `{format_}` has no place: {why_left_out(faults)}"
        )
    value = {"path": written, "format": format_, "n": len(memories), "left_out": Counter(faults.values())}
    invocation.show(value, lambda v, _: click.echo(f"{v['n']} memories written to {v['path']}"))


def _print_report(report: ImportReport, console: Console) -> None:
    word = "would be offered" if report.is_dry else "offered"
    facts: list[tuple[str, Any]] = [("format", report.format), ("entries", report.n)]
    facts += [(name, n) for name, n in report.outcomes.items()]
    facts += [("skipped", len(report.skipped)), ("", "nothing was stored" if report.is_dry else "")]
    console.print(f"{report.path}: {sum(report.outcomes.values())} memories {word}", markup=False)
    print_facts(console, [(name, value) for name, value in facts if value])
    faults = [(fault.place, fault.reason) for fault in report.skipped]
    faults += [
        (a.memory_id, f"{a.outcome}: {a.reason}")
        for a in report.answers
        if a.outcome in ("rejected", "failed")
    ]
    if faults:
        console.print()
        rows = [(place, shortened(reason, 100)) for place, reason in faults[:_SHOWN]]
        print_table(console, ["not taken over", "why"], rows)
        if len(faults) > _SHOWN:
            console.print(f"and {len(faults) - _SHOWN} more; `--json` lists them all", style="dim")
