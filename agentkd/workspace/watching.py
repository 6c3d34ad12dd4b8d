"""Watching a workspace: looks again and again whether a cycle is due, and runs one at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agentkd.config import CycleSettings
from agentkd.errors import BudgetError, ModelError, StoreError, of_the_disk

if TYPE_CHECKING:
    from agentkd.models.booking import Meter
    from agentkd.schema import CycleReport
    from agentkd.workspace.learning import Learning

__all__ = ["watch"]


def watch(
    open_workspace: Callable[[], Learning],
    *,
    stop: threading.Event,
    say: Callable[[str], None],
    after: Callable[[CycleReport], None] = lambda report: None,
    every: float | None = None,
    **ceilings: Any,
) -> int:
    """Run cycles as they become due until `stop` is set; returns how many were run or gone on with.

    The workspace is closed while nothing is due, so that an application may use it. A cycle under way when
    `stop` is set stops between two items and stays open. Where another process holds the workspace, or a
    model or the disk gives way, be it while opening or looking, it is tried again after the last pause;
    other errors end the watch. So does a ceiling of `[models]`, which holds for all its cycles together.

    Args:
        open_workspace: Opens it anew for every look, with the settings as they are then.
        stop: Set to end.
        say: Told in a sentence what each look found, where that is news.
        after: Called with each report.
        every: Seconds between two looks; `[cycle] poll_seconds` by default.
        ceilings: `max_seconds`, `max_tokens`, `max_usd` of each cycle.
    """
    n_cycles, said = 0, ""
    meter: Meter | None = None
    pause = CycleSettings().poll_seconds if every is None else every
    while not stop.is_set():
        report = None
        try:
            with open_workspace() as workspace:
                if meter is not None:
                    workspace.parts.meter.go_on_from(meter)
                meter = workspace.parts.meter
                if every is None:
                    pause = workspace.settings.cycle.poll_seconds
                due = workspace.when_due()
                line = f"{'due' if due.is_due else 'not due'}: {due.reason}"
                if due.is_due:
                    say(line)
                    report = workspace.cycle_if_due(
                        asked=lambda: "the watch ends" if stop.is_set() else "", **ceilings
                    )
                    if report is None:
                        line = "not due: another process ran the cycle"
        except BudgetError:
            raise  # what one command may spend is spent
        except (OSError, ModelError) as error:
            line = f"not now: {_passing(error).message}"
        if report is not None:
            n_cycles += 1
            after(report)
        elif line != said:
            say(line)
        said = line
        stop.wait(pause)
    return n_cycles


def _passing(error: OSError | ModelError) -> StoreError | ModelError:
    """Return what may be over at the next look: a lock, a full disk, a network; raises anything else."""
    if isinstance(error, StoreError | ModelError):
        return error
    disk = of_the_disk(error)
    if disk is None:
        raise error
    return disk
