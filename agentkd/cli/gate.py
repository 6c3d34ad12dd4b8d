"""`agentkd gate`: judge a candidate without promoting it, and say how many tasks a judgement needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.render import print_verdict
from agentkd.cli.shared import Command

if TYPE_CHECKING:
    from rich.console import Console

    from agentkd.workspace import Workspace

__all__ = ["command"]

_SHARE = click.FloatRange(min=0, max=1)
_INSIDE = click.FloatRange(min=0, max=1, min_open=True, max_open=True)


@click.command("gate", cls=Command)
@click.argument("checkpoint", required=False)
@click.option("--dry-run", is_flag=True, help="Judge nothing; say how many tasks a gain needs to be seen.")
@click.option("--gain", type=_INSIDE, default=0.1, show_default=True, help="Gain that is hoped for.")
@click.option("--loss", type=_SHARE, default=0.05, show_default=True, help="Share of tasks that it may lose.")
@click.option("--power", type=_INSIDE, default=0.8, show_default=True, help="Wanted chance to see it.")
@pass_invocation
def command(
    invocation: Invocation, checkpoint: str | None, dry_run: bool, gain: float, loss: float, power: float
) -> int:
    """Judge a candidate as a cycle would, or say how many tasks that needs.

    CHECKPOINT defaults to the latest candidate; the exit code is 1 where it may not serve. Nothing is
    promoted: `agentkd checkpoints promote` does that.
    """
    with invocation.workspace() as workspace:
        if dry_run:
            invocation.show(_needs(workspace, gain, loss, power), _print_needs)
            return 0
        verdict = workspace.gate(checkpoint)
    words = ("would be promoted", "would not be promoted")
    invocation.show(verdict, lambda value, console: print_verdict(value, console, words))
    return 0 if verdict.promote else 1


def _needs(workspace: Workspace, gain: float, loss: float, power: float) -> dict[str, Any]:
    from agentkd.cycle import look_number
    from agentkd.evaluate import power_of, spent_alpha, tasks_needed

    settings, suite = workspace.settings, workspace.settings.cycle.suite
    look = look_number(workspace.parts, suite)
    alpha = spent_alpha(settings.gate.alpha, look) if settings.gate.spend_alpha else settings.gate.alpha
    alpha /= len(set(settings.train.candidates))  # they share it
    there = workspace.parts.suite(suite).splits().get(settings.evaluate.split, 0)
    n = min(there, settings.evaluate.n or there)
    return {
        "suite": suite,
        "split": settings.evaluate.split,
        "look": look,
        "alpha": alpha,
        "gain": gain,
        "loss": loss,
        "wanted_power": power,
        "tasks_needed": tasks_needed(gain + loss, loss, alpha=alpha, power=power),
        "tasks": n,
        "power": power_of(n, gain + loss, loss, alpha),
    }


def _print_needs(needs: dict[str, Any], console: Console) -> None:
    console.print(
        f"The next candidate is number {needs['look']} that `{needs['suite']}` judges since the last "
        f"promotion: its McNemar test has level {needs['alpha']:.2g}.\n"
        f"To see a gain of {needs['gain']:g} (tasks won less tasks lost, {needs['loss']:g} of them lost) "
        f"with probability {needs['wanted_power']:g} takes {needs['tasks_needed']} tasks.\n"
        f"`{needs['split']}` has {needs['tasks']}: it would be seen with probability {needs['power']:.2f}.",
        markup=False,
    )
