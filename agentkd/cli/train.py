"""`agentkd train`: a LoRA student on a dataset."""

from __future__ import annotations

import click

from agentkd.cli.cost import train_estimate
from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.progress import clock_text
from agentkd.cli.render import print_checkpoint
from agentkd.cli.shared import Command

__all__ = ["command"]


@click.command("train", cls=Command)
@click.argument("dataset_id", required=False)
@pass_invocation
def command(invocation: Invocation, dataset_id: str | None) -> None:
    """Train a LoRA student on a dataset.

    DATASET_ID defaults to the latest dataset. A killed training goes on from its last save.
    """
    with invocation.workspace() as workspace:
        invocation.note(train_estimate(workspace, dataset_id))
        checkpoint = workspace.train(dataset_id)
    invocation.show(checkpoint, print_checkpoint)
    figures = checkpoint.metrics
    if "seconds" in figures:
        tokens = f"{figures['tokens']:,.0f} tokens in " if "tokens" in figures else ""
        invocation.note(f"trained {tokens}{clock_text(figures['seconds'])}, free")
