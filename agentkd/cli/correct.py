"""`agentkd correct`: language feedback on a trajectory."""

from __future__ import annotations

import json
from typing import Any

import click

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.shared import Command

__all__ = ["command"]


def _parse_call(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    if value is None:
        return None
    try:
        call = json.loads(value)
    except json.JSONDecodeError as error:
        raise click.BadParameter(f"`{value}` is not JSON: {error}") from error
    if not isinstance(call, dict) or "name" not in call or set(call) - {"name", "arguments"}:
        raise click.BadParameter('a call looks like {"name": "find_order", "arguments": {"limit": 3}}')
    return call


@click.command("correct", cls=Command)
@click.argument("trajectory")
@click.argument("text", default="")
@click.option(
    "--call",
    metavar="JSON",
    callback=_parse_call,
    help='The right call: \'{"name": ..., "arguments": {...}}\'.',
)
@click.option("--answer", default="", help="The right answer, for a run that ended in words.")
@click.option("--step", type=click.IntRange(min=0), help="Step that was wrong, from 0 [default: the whole].")
@pass_invocation
def command(
    invocation: Invocation,
    trajectory: str,
    text: str,
    call: dict[str, Any] | None,
    answer: str,
    step: int | None,
) -> None:
    """Correct a trajectory, in words or with the right call or answer.

    TRAJECTORY is an id that `agentkd runs show` prints; TEXT says what should have been done.
    """
    if not (text or call or answer):
        raise click.UsageError("say what was wrong: give TEXT, --call or --answer")
    with invocation.workspace() as workspace:
        correction = workspace.correct(trajectory, text, call=call, answer=answer, step=step)
    invocation.show(correction, lambda c, console: console.print(f"{c.id}: kept", markup=False))
    invocation.note("next: `agentkd distill` turns it into a memory")
