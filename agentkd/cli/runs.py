"""`agentkd runs`: runs and their trajectories."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agentkd.cli.cost import spent_by
from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.render import print_facts, print_table, shortened
from agentkd.cli.shared import Group
from agentkd.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from agentkd.ledger.trajectory import RunSummary
    from agentkd.schema import Trajectory

__all__ = ["command"]


@click.group("runs", cls=Group)
def command() -> None:
    """Look at runs and their trajectories."""


@command.command("list")
@pass_invocation
def list_(invocation: Invocation) -> None:
    """List runs, oldest first."""
    with invocation.workspace() as workspace:
        invocation.show(workspace.ledger.trajectories.runs(), _print_runs)


@command.command("show")
@click.argument("id_", metavar="ID")
@click.option("--failed", is_flag=True, help="Of a run, only what a grader judged failed.")
@click.option("-n", "n", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@pass_invocation
def show(invocation: Invocation, id_: str, failed: bool, n: int) -> None:
    """Show the trajectories of a run, or one trajectory step by step."""
    with invocation.workspace() as workspace:
        ledger = workspace.ledger.trajectories
        found = ledger.list(run_id=id_, success=False if failed else None, limit=n)
        if found or any(run.run_id == id_ for run in ledger.runs()):
            invocation.show(found, _print_trajectories)
            return
        try:
            trajectory = ledger.get(id_)
        except NotFoundError as error:
            raise NotFoundError(
                f"neither a run nor a trajectory is called `{id_}`", hint="`agentkd runs list` lists them"
            ) from error
        invocation.show(trajectory, _print_trajectory)


def _print_runs(runs: Sequence[RunSummary], console: Console) -> None:
    rows = [
        (r.run_id, r.suite, f"{r.n_finished}/{r.n}", r.n_success, f"{r.started_at:%Y-%m-%d %H:%M}")
        for r in runs
    ]
    print_table(
        console, ["run", "suite", "finished", "succeeded", "started (UTC)"], rows, empty="no runs yet"
    )


def _print_trajectories(trajectories: Sequence[Trajectory], console: Console) -> None:
    print_table(
        console,
        ["trajectory", "result", "steps", "recalled", "request"],
        [(t.id, _result(t), len(t.steps), len(t.recalled), shortened(t.task.prompt)) for t in trajectories],
    )


def _result(trajectory: Trajectory) -> str:
    if trajectory.failure is not None:
        return f"broke off ({trajectory.failure.kind})"
    if trajectory.outcome is None:
        return "ungraded"
    return "success" if trajectory.outcome.success else "failed"


def _print_trajectory(trajectory: Trajectory, console: Console) -> None:
    outcome = trajectory.outcome
    print_facts(
        console,
        [
            ("trajectory", trajectory.id),
            ("run", trajectory.run_id),
            ("task", f"{trajectory.task.suite}/{trajectory.task.split}/{trajectory.task.id}"),
            ("model", trajectory.model),
            ("result", _result(trajectory)),
            ("parts", ", ".join(f"{k} {v:g}" for k, v in outcome.parts.items()) if outcome else ""),
            ("feedback", outcome.feedback if outcome else ""),
            ("failure", trajectory.failure.message if trajectory.failure else ""),
            ("cost", spent_by(trajectory.usage)),
            ("request", trajectory.task.prompt),
        ],
    )
    for step in trajectory.steps:
        console.rule(f"step {step.index}", align="left", style="dim")
        print_facts(console, [("recalled", ", ".join(step.recalled)), ("said", step.reply.content)])
        for call in step.accepted_calls or step.reply.tool_calls:
            console.print(f"call    {call.name} {call.arguments}", markup=False)
        for result in step.results:
            console.print(f"answer  {result.error or result.content}", markup=False)
    if trajectory.answer:
        console.rule("answer", align="left", style="dim")
        console.print(trajectory.answer, markup=False)
