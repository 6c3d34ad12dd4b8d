"""`agentkd memory audit`: look over the memories of a workspace, or of another system's file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.render import print_facts
from agentkd.cli.shared import Command
from agentkd.config import CONFIG_NAME

if TYPE_CHECKING:
    from rich.console import Console

    from agentkd.memory import Audit
    from agentkd.workspace import Workspace

__all__ = ["audit"]

_SHOWN = 8


@click.command("audit", cls=Command)
@click.argument("path", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--format", "format_", default="", help="Format of PATH [default: by content].")
@pass_invocation
def audit(invocation: Invocation, path: Path | None, format_: str) -> int:
    """Look for copies, unused memories, loops, secrets, junk and a damaged index.

    PATH is a file or folder of another memory system, as for `memory import`; by default the workspace
    itself is looked over. A file needs no workspace. Exit code 1 where there is something to act on: a
    loop or quoted recall, a secret, an unreadable entry, or an index that lost something.
    """
    if path is None:
        with invocation.workspace() as workspace:
            found = workspace.memory.audit()
        n_unreadable = 0
    else:
        found, n_unreadable = _foreign(invocation, path, format_)
    invocation.show(found, _print_audit)
    if found.n_vectors != found.n_vectors_expected:
        invocation.note("the index differs from the ledger: run `agentkd memory rebuild`")
    if n_unreadable:
        invocation.note(
            f"{n_unreadable} entries cannot be read: `agentkd memory import --dry-run` names them"
        )
    return int(not found.is_sound or n_unreadable > 0)


def _foreign(invocation: Invocation, path: Path, format_: str) -> tuple[Audit, int]:
    from agentkd.interop import read_foreign
    from agentkd.memory import look_over
    from agentkd.memory.threshold import thresholds_for

    imported = read_foreign(path, format_)
    with _any_workspace(invocation) as workspace:
        embedder = workspace.parts.embedder()
        limits = thresholds_for(embedder.fingerprint, workspace.settings.memory, workspace.ledger)
        found = look_over(
            imported.memories,
            embedder,
            merge_above=limits.merge_above,
            labels=imported.places,
            counts_use=imported.counts_use,
        )
    return found, len(imported.skipped)


@contextmanager
def _any_workspace(invocation: Invocation) -> Iterator[Workspace]:
    """Open the workspace, or a scratch one with the default settings: only its embedder is wanted."""
    if any((invocation.root / name).is_file() for name in (CONFIG_NAME, "ledger.db")):
        with invocation.workspace() as workspace:
            yield workspace
        return
    from agentkd.workspace import Workspace

    with tempfile.TemporaryDirectory() as folder:
        with Workspace(folder, assignments=invocation.assignments, progress=invocation.progress()) as scratch:
            yield scratch


def _print_audit(found: Audit, console: Console) -> None:
    n_exact = sum(len(group) - 1 for group in found.exact_copies)
    junk = "; ".join(f"{len(ids)} {sign} ({_listed(ids)})" for sign, ids in found.junk.items())
    unused = f"{len(found.never_recalled):,}" if found.counts_use else "unknown: the store does not count use"
    loops = [*found.loops, *found.quotes]
    vectors = f"{found.n_vectors} of {found.n_vectors_expected}" if found.n_vectors_expected else ""
    print_facts(
        console,
        [
            ("memories", found.n),
            ("by status", ", ".join(f"{n} {status}" for status, n in found.by_status.items())),
            ("by kind", ", ".join(f"{n} {kind}" for kind, n in found.by_kind.items())),
            ("exact copies", f"{n_exact} ({found.exact_rate:.1%})"),
            ("", _listed([" = ".join(group[:4]) for group in found.exact_copies], "; ")),
            *((f"near copies {d.threshold:.2f}", f"{d.n} ({d.rate:.1%})") for d in found.duplicates),
            ("like situations", len(found.near_copies)),
            ("contradictions", sum(not pair.same_lesson for pair in found.near_copies)),
            ("never recalled", unused),
            ("loops", f"{len(loops)} ({_listed(loops)})" if loops else "0"),
            ("echoes", _listed([f"{group[0]} x {len(group)}" for group in found.echoes])),
            ("secrets", f"{len(found.secrets)} ({_listed(found.secrets)})" if found.secrets else "0"),
            ("redacted", found.n_redacted or ""),
            ("junk", junk),
            ("vectors", vectors),
        ],
    )


def _listed(names: tuple[str, ...] | list[str], between: str = ", ") -> str:
    more = f"{between}and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return between.join(names[:_SHOWN]) + more
