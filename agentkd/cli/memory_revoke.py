"""`agentkd memory revoke`: take memories, trajectories or a user's data back, and taint what they made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.render import print_facts
from agentkd.cli.scope import named, scope_options
from agentkd.cli.shared import Command

if TYPE_CHECKING:
    from rich.console import Console

    from agentkd.cycle.revoke import Revocation

__all__ = ["revoke"]


@click.command("revoke", cls=Command)
@click.argument("words", nargs=-1, required=True, metavar="[ID]... REASON")
@scope_options("Revoke all memories and trajectories of this {}.")
@click.option(
    "--instead",
    default="",
    help="What to do in the place of the lesson: said to a tainted student where it acts.",
)
@pass_invocation
def revoke(invocation: Invocation, /, words: tuple[str, ...], instead: str, **given: str | None) -> None:
    """Take memories or trajectories out of use for good and taint what was made from them.

    ID is that of a memory or a trajectory, several may be given; REASON is kept in the ledger. With `--user`
    and the like all that has this scope is revoked; a scope that nobody has is an error. Rows, datasets and
    checkpoints that rest on it are tainted; `[revoke] serving` says whether a tainted student serves on, and
    what acts near the revoked.
    """
    from agentkd.schema import Scope

    scope = Scope(**named(given))
    *ids, reason = words
    if not ids and scope == Scope():
        raise click.UsageError("give ids and a reason, or a scope such as `--user ann` and a reason")
    with invocation.workspace() as workspace:
        done = workspace.revoke(
            *ids, reason=reason, scope=None if scope == Scope() else scope, instead=instead
        )
    invocation.show(done, _print)


def _print(done: Revocation, console: Console) -> None:
    counts = ", ".join(f"{n} {kind}" for kind, n in done.reached.items())
    print_facts(
        console,
        [
            (
                "revoked",
                _listed(done.memories, "memories") or ("" if done.trajectories else "was revoked before"),
            ),
            ("runs", _listed(done.trajectories, "trajectories")),
            ("quarantined", _listed(done.quarantined, "memories that other runs support too")),
            ("made from it", counts or "nothing"),
            ("tainted", f"{done.rows} rows in {len(done.datasets)} datasets" if done.rows else ""),
            ("tainted students", ", ".join(done.checkpoints)),
            ("spoken against by", _listed(done.counters, "counter-memories")),
            (
                "left of the same runs",
                _listed(done.siblings, "memories: revoke them too where they teach the same"),
            ),
            ("left of like names", ", ".join(done.alike)),
            ("to look at", _listed(done.to_look_at, "memories learnt from runs that were shown it")),
            ("serving", done.said),
        ],
    )


def _listed(ids: tuple[str, ...], what: str) -> str:
    if not ids:
        return ""
    return ", ".join(ids) if len(ids) <= 3 else f"{len(ids)} {what}"
