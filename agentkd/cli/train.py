"""`agentkd train`: a LoRA student on a dataset, or what that would take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agentkd.cli.cost import train_estimate
from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.progress import clock_text
from agentkd.cli.render import print_checkpoint, print_facts
from agentkd.cli.shared import Command

if TYPE_CHECKING:
    from rich.console import Console

    from agentkd.schema import TrainPlan

__all__ = ["command", "print_plan"]


@click.command("train", cls=Command)
@click.argument("dataset_id", required=False)
@click.option("--from", "go_on_from", metavar="CHECKPOINT", default="", help="Go on from this adapter.")
@click.option("--continue", "is_continued", is_flag=True, help="Go on from what serves, else the newest.")
@click.option(
    "--replay", metavar="DATASET", multiple=True, help="Train on the union with this dataset; repeatable."
)
@click.option("--dry-run", "is_dry", is_flag=True, help="Say what it will take and advise; start nothing.")
@pass_invocation
def command(
    invocation: Invocation,
    dataset_id: str | None,
    go_on_from: str,
    is_continued: bool,
    replay: tuple[str, ...],
    is_dry: bool,
) -> None:
    """Train a LoRA student on a dataset.

    DATASET_ID defaults to the latest compiled dataset. A killed training goes on from its last save.
    Training starts from the base unless `--from` or `--continue` names an adapter.
    """
    if go_on_from and is_continued:
        raise click.UsageError("--from and --continue exclude each other")
    with invocation.workspace() as workspace:
        if is_continued:
            from agentkd.cycle.training import newest_checkpoint

            go_on_from = newest_checkpoint(workspace.parts)
            invocation.note(f"going on from `{go_on_from}`")
        if is_dry:
            plan = workspace.plan_training(dataset_id, go_on_from=go_on_from, replay=replay)
            invocation.show(plan, print_plan)
            return
        invocation.note(train_estimate(workspace, dataset_id))
        checkpoint = workspace.train(dataset_id, go_on_from=go_on_from, replay=replay)
    invocation.show(checkpoint, print_checkpoint)
    figures = checkpoint.metrics
    if "seconds" in figures:
        tokens = f"{figures['tokens']:,.0f} tokens in " if "tokens" in figures else ""
        invocation.note(f"trained {tokens}{clock_text(figures['seconds'])}, free")


def print_plan(plan: TrainPlan, console: Console) -> None:
    """Print a plan: the data, the machine, the cost, then warnings and advice."""
    parts = ", ".join(f"{name} {mib:,.0f}" for name, mib in plan.memory_parts.items())
    needs = "; ".join(
        f"{name} (needs {', '.join(wanted)})" if wanted else name for name, wanted in plan.objectives.items()
    )
    how = ", activations computed twice" if plan.recompute else ""
    print_facts(
        console,
        [
            ("dataset", plan.dataset_id),
            ("rows", f"{plan.n_rows:,} to train on, {plan.n_dev:,} to watch"),
            (
                "tokens",
                f"{plan.n_tokens:,} ({plan.n_computed_tokens:,} computed), {plan.n_label_tokens:,} trained",
            ),
            ("steps", f"{plan.n_steps:,}"),
            ("adapter", f"{plan.n_parameters:,} parameters"),
            ("objectives", needs),
            ("teacher", _teacher(plan)),
            ("device", f"{plan.device}, {plan.dtype}, {plan.threads} threads, {plan.processes} processes"),
            ("packs", f"{plan.pack_tokens:,} tokens, {plan.chunk_tokens} labels at a time{how}"),
            ("memory", f"{plan.memory_mib:,.0f} MiB of {plan.memory_limit_mib:,.0f} ({parts})"),
            ("time", f"{clock_text(plan.seconds)} (probed in {clock_text(plan.probe_seconds)})"),
            ("price", "unknown" if plan.usd is None else "free" if plan.usd == 0 else f"${plan.usd:.4f}"),
        ],
    )
    for line in plan.warnings:
        console.print(f"warning: {line}", markup=False)
    for advice in plan.advice:
        text = f"advice: {advice.key} = {advice.better} instead of {advice.present}: {advice.why}"
        console.print(text, markup=False)


def _teacher(plan: TrainPlan) -> str:
    if not plan.teacher:
        return ""
    missing = f", {plan.signals_missing:,} missing"
    cost = f" ({clock_text(plan.signals_seconds)})" if plan.signals_seconds else ""
    return f"{plan.teacher}: signals of {plan.signals_cached:,} rows cached{missing}{cost}"
