"""`agentkd lineage`: what a fact was made from, and what was made from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.shared import Command

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console
    from rich.tree import Tree

    from agentkd.ledger.lineage import LineageGraph

__all__ = ["command"]

_TITLES = {"down": "made from", "up": "made of it"}


@click.command("lineage", cls=Command)
@click.argument("id_", metavar="ID")
@click.option("--width", type=click.IntRange(min=1), default=5, show_default=True, help="Facts per branch.")
@pass_invocation
def command(invocation: Invocation, id_: str, width: int) -> None:
    """Trace what a fact was made from and what was made from it.

    ID is that of a checkpoint, dataset, row, memory, correction, trajectory, evaluation or cycle, the name of
    a skill or of a folder of cached signals, or the place of an export.
    """
    with invocation.workspace() as workspace:
        graphs = workspace.lineage(id_)
    invocation.show(graphs, lambda value, console: _print(value, width, console))


def _print(graphs: Mapping[str, LineageGraph], width: int, console: Console) -> None:
    from rich.markup import escape
    from rich.tree import Tree

    for name, graph in graphs.items():
        counts = graph.counts()
        counts[graph.kind] -= 1  # the root itself
        total = ", ".join(f"{n} {kind}" for kind, n in counts.items() if n) or "nothing"
        tree = Tree(f"[bold]{_TITLES.get(name, name)}[/] ({total})")
        kinds = {node.id: node.kind for node in graph.nodes}
        branches: dict[str, list[str]] = {}
        for made, source in graph.edges:
            here, there = (made, source) if name == "down" else (source, made)
            branches.setdefault(here, []).append(there)
        root = tree.add(f"{graph.kind} {escape(graph.root)}")
        _grow(root, graph.root, branches, kinds, width, {graph.root})
        console.print(tree)


def _grow(
    tree: Tree,
    id_: str,
    branches: Mapping[str, list[str]],
    kinds: Mapping[str, str],
    width: int,
    seen: set[str],
) -> None:
    """Add the branches of a fact, each fact once."""
    from rich.markup import escape

    new = [child for child in branches.get(id_, ()) if child not in seen]
    seen.update(new)
    for child in new[:width]:
        branch = tree.add(f"[dim]{kinds.get(child, '?')}[/] {escape(child)}")
        _grow(branch, child, branches, kinds, width, seen)
    if len(new) > width:
        tree.add(f"[dim]and {len(new) - width} more[/]")
