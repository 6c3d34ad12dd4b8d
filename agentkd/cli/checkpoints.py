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

    from agentkd.schema import Checkpoint

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
    "--as", "shape", type=click.Choice(["peft", "merged", "gguf-adapter"]), default="merged",
    show_default=True, help="A peft folder, a whole transformers model, or a LoRA for llama.cpp.",
)  # fmt: skip
@click.option(
    "--dtype", type=click.Choice(["bfloat16", "float32"]), default="float32", show_default=True,
    help="Type of a merged model's weights.",
)  # fmt: skip
@pass_invocation
def export(invocation: Invocation, name: str, out: Path, shape: str, dtype: str) -> None:
    """Write a student to OUT for other programs.

    The export is read back and must answer like the student on prompts of its dataset; else nothing is
    written.
    """
    from agentkd.cycle.export import export_checkpoint

    with invocation.workspace() as workspace:
        parity = export_checkpoint(workspace.parts, name, shape, out, dtype=dtype)
    invocation.show(
        {"out": str(out), "shape": shape, **parity.model_dump()},
        lambda v, console: console.print(
            f"{v['out']}: {v['shape']}; {v['agreement']:.2%} of {v['n_tokens']} tokens as in the student, "
            f"largest difference of a logit {v['largest']:.4f}",
            markup=False,
        ),
    )


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
