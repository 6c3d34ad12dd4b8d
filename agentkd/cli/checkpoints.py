"""`agentkd checkpoints`: students, promotion and roll-back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.render import print_checkpoint, print_table
from agentkd.cli.shared import Group
from agentkd.errors import NotFoundError
from agentkd.plugins import nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from agentkd.hf import Export
    from agentkd.schema import Checkpoint, Route

__all__ = ["command"]


@click.group("checkpoints", cls=Group)
def command() -> None:
    """Look at students; promote one or roll back."""


@command.command("list")
@pass_invocation
def list_(invocation: Invocation) -> None:
    """List checkpoints with their status, oldest first."""
    with invocation.workspace() as workspace:
        invocation.show(workspace.checkpoints(), _print_checkpoints)


@command.command("show")
@click.argument("name")
@pass_invocation
def show(invocation: Invocation, name: str) -> None:
    """Show one checkpoint with its origin and figures."""
    with invocation.workspace() as workspace:
        found = {checkpoint.name: checkpoint for checkpoint in workspace.checkpoints()}
    if name not in found:
        raise NotFoundError(f"no checkpoint is called `{name}`", hint=nearest(name, found), name=name)
    invocation.show(found[name], print_checkpoint)


@command.command("promote")
@click.argument("name")
@click.option("--force", is_flag=True, help="Promote against the gate's verdict, or without one.")
@pass_invocation
def promote(invocation: Invocation, name: str, force: bool) -> None:
    """Let a checkpoint serve, if the gate agrees."""
    with invocation.workspace() as workspace:
        workspace.promote(name, force=force)
    invocation.show(
        {"serving": name}, lambda v, console: console.print(f"{v['serving']} serves", markup=False)
    )


@command.command("rollback")
@pass_invocation
def rollback(invocation: Invocation) -> None:
    """Let the previous checkpoint, or the base, serve again."""
    with invocation.workspace() as workspace:
        before, now = workspace.rollback()
    invocation.show(
        {"from": before, "to": now},
        lambda v, console: console.print(f"{v['from']} -> {v['to']}", markup=False),
    )


@command.command("export")
@click.argument("name")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--as", "shape", type=click.Choice(["peft", "merged", "gguf-adapter", "gguf"]), default="merged",
    show_default=True,
    help="A peft folder, a whole transformers model, a LoRA for llama.cpp, or a whole model for it.",
)  # fmt: skip
@click.option(
    "--dtype", type=click.Choice(["float32", "float16", "bfloat16", "q8_0"]),
    help="Type of a whole model's weights: float32 where nothing is said, float16 as `gguf`.",
)  # fmt: skip
@pass_invocation
def export(invocation: Invocation, name: str, out: Path, shape: str, dtype: str | None) -> None:
    """Write a student to OUT for other programs.

    The export is read back (by llama.cpp too where xllamacpp is installed) and must answer like the student
    at every position of 32 prompts of its dataset; else nothing is written. `export.json` beside it says how
    like it answered.
    """
    from agentkd.cycle.export import export_checkpoint

    with invocation.workspace() as workspace:
        done = export_checkpoint(workspace.parts, name, shape, out, dtype=dtype or "")
    invocation.show(done, _print_export)


@command.command("transfer")
@click.argument("name")
@click.option(
    "--to", "source", metavar="SOURCE", required=True, help="The upgraded base: wheel:, hf:, path:."
)
@pass_invocation
def transfer(invocation: Invocation, name: str, source: str) -> None:
    """Carry a student over to an upgraded base, as a candidate.

    What training added to the old weights is added to the new ones. The new base must have the same layers
    and the same tokenizer. Set `[roles] student` to it, then `agentkd gate` judges the candidate, and
    `agentkd train --from`, or the next cycle that compiles where `[train] candidates` holds `stacked`, goes
    on from it.
    """
    with invocation.workspace() as workspace:
        checkpoint = workspace.transfer(name, source)
    invocation.show(checkpoint, print_checkpoint)


@command.command("route")
@click.argument("text")
@pass_invocation
def route(invocation: Invocation, text: str) -> None:
    """Say which student a routed agent lets act on TEXT, and why.

    With `[roles] actor = "routed"` each request goes to the promoted student whose training rows are near
    enough, else to the base with its memories.
    """
    with invocation.workspace() as workspace:
        chosen = workspace.route(text)
    invocation.show(chosen, _print_route)


def _print_route(route: Route, console: Console) -> None:
    if not route.scores:
        console.print("base + memory: no student was promoted on this base", markup=False)
        return
    word = "near enough" if route.checkpoint != "base" else "not near enough"
    name = route.checkpoint if route.checkpoint != "base" else "base + memory"
    console.print(
        f"{name}: the nearest key is {word} ({route.score:.3f}, {route.threshold:.3f} needed)", markup=False
    )
    console.print(f"  {route.key}", markup=False)
    rows = [(each, f"{score:.3f}") for each, score in route.scores.items()]
    print_table(console, ["student", "nearest key"], rows, empty="")


@command.command("exports")
@click.argument("name")
@pass_invocation
def exports(invocation: Invocation, name: str) -> None:
    """List where a checkpoint was exported to, oldest first."""
    from agentkd.cycle.export import exports_of

    with invocation.workspace() as workspace:
        found = exports_of(workspace.parts, name)
    invocation.show(found, _print_exports)


def _print_exports(found: Sequence[Export], console: Console) -> None:
    rows = [
        (e.out, e.shape, e.dtype, ", ".join(f"{p.agreement:.2%} {p.reader}" for p in e.parity),
         f"{e.created_at:%Y-%m-%d %H:%M}")
        for e in found
    ]  # fmt: skip
    print_table(
        console, ["exported to", "as", "type", "as the student", "when (UTC)"], rows, empty="no exports yet"
    )


def _print_export(export: Export, console: Console) -> None:
    size = export.n_bytes / 1e6
    console.print(f"{export.out}: {export.shape}, {export.dtype}, {size:.1f} MB", markup=False)
    for parity in export.parity:
        console.print(
            f"  {parity.reader} says the student's token at {parity.agreement:.2%} of {parity.n_tokens} "
            f"positions ({parity.n_prompts} prompts of {export.prompts}; needed {parity.bar:.1%}); largest "
            f"difference of a logit {parity.largest:.4f}",
            markup=False,
        )
    for note in export.notes:
        console.print(f"  {note}", markup=False)


def _print_checkpoints(checkpoints: Sequence[Checkpoint], console: Console) -> None:
    rows = [
        (c.name, c.status, c.dataset_id, f"{c.metrics['loss']:.3f}" if "loss" in c.metrics else "",
         f"{c.created_at:%Y-%m-%d %H:%M}")
        for c in checkpoints
    ]  # fmt: skip
    print_table(
        console,
        ["checkpoint", "status", "dataset", "loss", "created (UTC)"],
        rows,
        empty="no checkpoints yet: the base serves",
    )
