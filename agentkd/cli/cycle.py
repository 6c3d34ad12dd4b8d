"""`agentkd cycle`: all phases, resumable; now, where it is due, or whenever it is due."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from agentkd.cli.cost import cycle_estimate
from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.render import print_cycle, print_due
from agentkd.cli.shared import Command
from agentkd.errors import CeilingError

__all__ = ["NOT_DUE", "command"]

NOT_DUE = 12
"""Exit code of `--if-due` where nothing is due."""

_POSITIVE = click.FloatRange(min=0, min_open=True)


@click.command("cycle", cls=Command)
@click.option("--rounds", type=click.IntRange(min=1), help="Cycles in a row [default: `[cycle] rounds`].")
@click.option("--if-due", is_flag=True, help="Only where one is due; say why or why not.")
@click.option("--watch", "watches", is_flag=True, help="Go on looking, and run one whenever it is due.")
@click.option("--every", type=_POSITIVE, metavar="SECONDS", help="Time between two looks of --watch.")
@click.option("--max-seconds", type=_POSITIVE, help="Wall time, then stop; the next call goes on.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Tokens of all models, then stop.")
@click.option("--max-usd", type=_POSITIVE, help="Money, then stop.")
@click.option(
    "--recompile", is_flag=True,
    help="Begin with `compile`: train a new student from the base, without what was revoked.",
)  # fmt: skip
@pass_invocation
def command(
    invocation: Invocation,
    rounds: int | None,
    if_due: bool,
    watches: bool,
    every: float | None,
    max_seconds: float | None,
    max_tokens: int | None,
    max_usd: float | None,
    recompile: bool,
) -> int:
    """Go through all phases: run, distill, compile, train, evaluate, promote.

    A killed cycle goes on where it stopped when the same command is given again. Exit codes: 0 done,
    11 stopped at a ceiling or by SIGTERM (what is done is kept), 12 not due.
    """
    ceilings: dict[str, Any] = {"max_seconds": max_seconds, "max_tokens": max_tokens, "max_usd": max_usd}
    if watches and (if_due or rounds):
        raise click.UsageError("--watch looks by itself: leave out --if-due and --rounds")
    if recompile and (watches or if_due):
        raise click.UsageError("--recompile is not asked whether it is due: leave out --if-due and --watch")
    if watches:
        return _watch(invocation, every, ceilings)
    with _stopping(signal.SIGTERM) as stop, invocation.workspace() as workspace:
        if if_due:
            due = workspace.when_due()
            if not due.is_due:
                invocation.show(due, print_due)
                return NOT_DUE
            invocation.note(f"due: {due.reason}")
        invocation.note(cycle_estimate(workspace))
        ceilings["asked"] = lambda: "SIGTERM" if stop.is_set() else ""
        if if_due:
            found = workspace.cycle_if_due(rounds=rounds or 1, **ceilings)
            if found is None:
                invocation.show(workspace.when_due(), print_due)
                return NOT_DUE
            report = found
        else:
            report = workspace.cycle(rounds=rounds, recompile=recompile, **ceilings)
        invocation.show(report, print_cycle)
        invocation.note(f"report: {workspace.report_path(report.number)}")
    return CeilingError.exit_code if report.stopped else 0


def _watch(invocation: Invocation, every: float | None, ceilings: Mapping[str, Any]) -> int:
    from agentkd.workspace.watching import watch

    with _stopping(signal.SIGTERM, signal.SIGINT) as stop:
        watch(
            invocation.workspace,
            stop=stop,
            say=invocation.note,
            after=lambda report: invocation.show(report, print_cycle),
            every=every,
            **ceilings,
        )
    return 0


@contextmanager
def _stopping(*signals: signal.Signals) -> Iterator[threading.Event]:
    """Give an event that these signals set, so that work under way ends between two items."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in signals}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
