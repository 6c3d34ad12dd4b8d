"""`agentkd runs`: runs and their trajectories."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentkd.cli.cost import spent_by
from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.render import print_facts, print_rounds, print_table, shortened
from agentkd.cli.shared import Group, newest_option
from agentkd.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from agentkd.ledger.trajectory import RunSummary
    from agentkd.schema import CorrectionRound, Trajectory

__all__ = ["command"]


@click.group("runs", cls=Group)
def command() -> None:
    """Look at runs and their trajectories."""


@command.command("list")
@pass_invocation
def list_(invocation: Invocation) -> None:
    """List runs, oldest first."""
    with invocation.workspace() as workspace:
        ledger = workspace.ledger
        rounds = {each.run_id: each for each in ledger.corrections.rounds()}
        invocation.show(ledger.trajectories.runs(), lambda runs, console: _print_runs(runs, rounds, console))


@command.command("corrections")
@click.option("--suite", help="Only runs of this suite.")
@newest_option
@pass_invocation
def corrections(invocation: Invocation, suite: str | None, n: int) -> None:
    """Show corrections per task, run by run: the figure that falls while an agent learns."""
    with invocation.workspace() as workspace:
        rounds = workspace.ledger.corrections.rounds(suite)
    shown = rounds[-n:]
    invocation.show(shown, print_rounds)
    invocation.note_hidden(len(shown), len(rounds))


@command.command("show")
@click.argument("id_", metavar="ID")
@click.option("--failed", is_flag=True, help="Of a run, only what a grader judged failed.")
@newest_option
@pass_invocation
def show(invocation: Invocation, id_: str, failed: bool, n: int) -> None:
    """Show the trajectories of a run, or one trajectory step by step."""
    with invocation.workspace() as workspace:
        ledger = workspace.ledger.trajectories
        run = next((run for run in ledger.runs() if run.run_id == id_), None)
        if run is not None:
            found = ledger.list(run_id=id_, success=False if failed else None, limit=n or None, latest=True)
            invocation.show(found, _print_trajectories)
            invocation.note_hidden(len(found), run.n_failed if failed else run.n_finished)
            return
        try:
            trajectory = ledger.get(id_)
        except NotFoundError as error:
            raise NotFoundError(
                f"neither a run nor a trajectory is called `{id_}`", hint="`agentkd runs list` lists them"
            ) from error
        invocation.show(trajectory, _print_trajectory)


@command.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--suite", default="imported", show_default=True, help="Suite that the tasks count to.")
@click.option("--split", default="train", show_default=True, help="Split that they count to.")
@click.option(
    "--vouch", is_flag=True, help="Answer for the file: its rewards count as if a grader had given them."
)
@pass_invocation
def import_(invocation: Invocation, file: Path, suite: str, split: str, vouch: bool) -> None:
    """Take in recorded runs: conversations in the OpenAI format with `task_id` and `reward`.

    A task that an installed suite of this name holds out is refused under a training split. What a file says
    of its own success proves nothing: without `--vouch` memories learnt from it wait in quarantine.
    """
    from agentkd.interop import read_openai_traces, refuse_leaks
    from agentkd.schema import is_held_out

    found = read_openai_traces(file, suite=suite, split=split, vouched=vouch)
    with invocation.workspace() as workspace:
        refuse_leaks(found, workspace.parts)
        with workspace.ledger.transaction():
            n_new = sum(workspace.ledger.trajectories.finish(trajectory) for trajectory in found)
        facts = {"read": len(found), "new": n_new, "run": found[0].run_id if found else ""}
        invocation.show(facts, lambda value, console: print_facts(console, list(value.items())))
    if n_new and not is_held_out(split):
        invocation.note("next: `agentkd distill` learns from them")


def _print_runs(runs: Sequence[RunSummary], rounds: Mapping[str, CorrectionRound], console: Console) -> None:
    rows = [
        (
            r.run_id,
            r.suite,
            f"{r.n_finished}/{r.n}",
            r.n_success,
            f"{rounds[r.run_id].per_task:.2f}" if r.run_id in rounds else "",
            f"{r.started_at:%Y-%m-%d %H:%M}",
        )
        for r in runs
    ]
    columns = ["run", "suite", "finished", "succeeded", "corrections per task", "started (UTC)"]
    print_table(console, columns, rows, empty="no runs yet")


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
