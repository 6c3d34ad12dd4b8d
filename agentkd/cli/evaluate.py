"""`agentkd evaluate`: the arms on held-out tasks."""

from __future__ import annotations

import time

import click

from agentkd.cli.cost import run_estimate, spent
from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.render import print_evaluation
from agentkd.cli.shared import Command
from agentkd.cli.student import print_student
from agentkd.schema import Evaluation

__all__ = ["command"]


@click.command("evaluate", cls=Command)
@click.argument("checkpoint", required=False)
@click.option("--split", help="Held-out split [default: `[evaluate] split`].")
@click.option("-n", "n", type=click.IntRange(min=1), help="Number of tasks [default: all].")
@click.option(
    "--evaluator",
    "evaluators",
    multiple=True,
    help="Let this evaluator look at the candidate too [default: `[evaluate] evaluators`].",
)
@click.option(
    "--student-report",
    "wants_report",
    is_flag=True,
    help="Assess what serves (or CHECKPOINT) on training-side tasks instead: what a teacher would read.",
)
@pass_invocation
def command(
    invocation: Invocation,
    checkpoint: str | None,
    split: str | None,
    n: int | None,
    evaluators: tuple[str, ...],
    wants_report: bool,
) -> None:
    """Compare the arms on held-out tasks, pair by pair.

    CHECKPOINT defaults to the latest candidate.
    """
    with invocation.workspace() as workspace:
        if wants_report:
            report = workspace.assess(checkpoint or "", split=split or "", n=n)
            invocation.show(report, print_student)
            return
        settings = workspace.settings
        count = (n or settings.evaluate.n or 0) * len(settings.evaluate.arms)
        invocation.note(run_estimate(workspace, settings.cycle.suite, count))
        started = time.monotonic()
        evaluation = workspace.evaluate(checkpoint, split=split, n=n, evaluators=evaluators or None)
    invocation.show(evaluation, print_evaluation)
    invocation.note(_spent(evaluation, time.monotonic() - started))


def _spent(evaluation: Evaluation, seconds: float) -> str:
    read = sum(arm.prompt_tokens * arm.n for arm in evaluation.arms)
    written = sum(arm.completion_tokens * arm.n for arm in evaluation.arms)
    return spent(read, written, seconds, None)
