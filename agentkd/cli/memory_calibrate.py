"""`agentkd memory calibrate`: measure what counts as similar for the workspace's embedder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.render import print_facts, print_table
from agentkd.cli.shared import Command

if TYPE_CHECKING:
    from rich.console import Console

    from agentkd.memory.calibrate import CalibrationReport

__all__ = ["calibrate"]


@click.command("calibrate", cls=Command)
@click.option(
    "-n", "n", type=click.IntRange(min=20), default=500, show_default=True, help="Memories looked at."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the sample.")
@click.option("--dry-run", is_flag=True, help="Only print: keep the thresholds as they are.")
@click.option("--reset", is_flag=True, help="Forget what was measured, then stop.")
@pass_invocation
def calibrate(invocation: Invocation, n: int, seed: int, dry_run: bool, reset: bool) -> None:
    """Measure the embedder's thresholds on this workspace's memories and keep them.

    They hold where `[memory] min_score`, `min_words` and `merge_above` are not set, and only for the
    embedder that they were measured with.
    """
    from agentkd.memory.calibrate import calibrate as measure

    with invocation.workspace() as workspace:
        embedder = workspace.parts.embedder()
        if reset:
            gone = workspace.ledger.calibrations.drop(embedder.fingerprint)
            word = "forgotten" if gone else "there was none"
            invocation.show({"dropped": gone}, lambda v, _: click.echo(f"calibration: {word}"))
            return
        report = measure(workspace.ledger, embedder, n=n, seed=seed)
        if not dry_run:
            workspace.ledger.calibrations.put(report.calibration)
        told = workspace.settings.memory
        for name in ("min_score", "min_words", "merge_above"):
            if getattr(told, name) is not None:
                invocation.note(f"`[memory] {name}` is set to {getattr(told, name)}: that holds")
    invocation.show(report, _print)


def _print(report: CalibrationReport, console: Console) -> None:
    found = report.calibration
    rows = [
        (f"{r.threshold:.2f}", f"{r.recall:.3f}", f"{r.fallout:.3f}", f"{r.precision:.3f}",
         "<- min_score" if abs(r.threshold - found.min_score) < 0.025 else "")
        for r in report.rows
    ]  # fmt: skip
    print_table(console, ["cosine", "recall", "fallout", "precision", ""], rows, empty="nothing was measured")
    print_facts(
        console,
        [
            ("memories", report.n_memories),
            ("related pairs", f"{found.n_positive}, quartiles {_text(report.related)}"),
            ("unrelated pairs", f"{found.n_negative}, quartiles {_text(report.unrelated)}"),
            ("copies", f"quartiles {_text(report.copies)}"),
            ("min_score", f"{found.min_score:.2f}"),
            ("min_words", f"{found.min_words:.3f}"),
            ("related_above", f"{found.related_above:.3f}"),
            ("merge_above", f"{found.merge_above:.3f}"),
            ("embedder", found.fingerprint),
        ],
    )


def _text(quartiles: tuple[float, float, float]) -> str:
    return " / ".join(f"{value:.2f}" for value in quartiles)
