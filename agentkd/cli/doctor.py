"""`agentkd doctor`: prove that each stage works here, and say what is missing."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentkd.cli.check import Check
from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.shared import Command

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["command"]

_STYLES = {"PASS": "green", "FAIL": "bold red", "MISSING": "yellow"}


@click.command("doctor", cls=Command)
@click.option("--no-proof", is_flag=True, help="Only look at the machine; do not run the stages (a minute).")
@click.option("--repair", is_flag=True, help="Check the workspace's ledger, indexes and folders; mend them.")
@pass_invocation
def command(invocation: Invocation, no_proof: bool, repair: bool) -> int:
    """Prove on a scratch workspace that each stage works on this machine.

    Exit code 1 where a check fails; what is only missing (an extra, a model, a GPU) is no failure.
    With --repair nothing is proved: the workspace at hand is checked, and what differs from its ledger is
    made anew from it; exit code 1 where that is not enough.
    """
    from agentkd.cli.machine import look_at_machine, look_at_workspace

    if repair:
        from agentkd.cli.repair import repair_workspace

        checks = list(repair_workspace(invocation.root, invocation.workspace))
    else:
        checks = [*look_at_machine(invocation.root), *look_at_workspace(invocation.root)]
        checks += [] if no_proof else _proof(invocation)
    invocation.show(checks, _print)
    n_failed = sum(check.status == "FAIL" for check in checks)
    invocation.note(f"{n_failed} of {len(checks)} checks failed" if n_failed else "all that is here works")
    return 1 if n_failed else 0


def _proof(invocation: Invocation) -> list[Check]:
    from agentkd.cli.machine import EXTRAS

    lacking = [name for name in EXTRAS["train"] if importlib.util.find_spec(name) is None]
    if lacking:
        return [
            Check(
                area="proof",
                name="stages",
                status="MISSING",
                detail=f"not tried without {', '.join(lacking)}",
                hint="pip install 'agentkd[train]'",
            )
        ]
    from agentkd.cli.proof import STAGES, prove
    from agentkd.protocols import SilentProgress

    found: list[Check] = []
    with tempfile.TemporaryDirectory(prefix="agentkd-doctor-") as folder:
        with invocation.progress().bar("prove the stages", len(STAGES), "stages") as bar:
            for check in prove(Path(folder), SilentProgress()):
                found.append(check)
                bar.advance(note=check.name)
    return found


def _print(checks: Sequence[Check], console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    for area in dict.fromkeys(check.area for check in checks):
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title=area, title_justify="left")
        table.add_column("check", no_wrap=True)
        table.add_column("", no_wrap=True)
        table.add_column("found", overflow="fold")
        table.add_column("s", justify="right")
        for check in (c for c in checks if c.area == area):
            found = escape(check.detail) + (f" [dim]({escape(check.hint)})[/]" if check.hint else "")
            seconds = f"{check.seconds:.1f}" if check.seconds else ""
            status = f"[{_STYLES[check.status]}]{check.status}[/]"
            table.add_row(escape(check.name), status, found, seconds)
        console.print(table)
        console.print()
