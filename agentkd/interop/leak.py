"""Keep recorded runs of held-out tasks from coming in under another split."""

from __future__ import annotations

from collections.abc import Iterable

from agentkd.errors import AgentkdError, DataError
from agentkd.protocols import Kit
from agentkd.schema import Trajectory, is_held_out

__all__ = ["refuse_leaks"]


def refuse_leaks(trajectories: Iterable[Trajectory], kit: Kit) -> None:
    """Raise DataError for a run that calls a task a training task which its own suite holds out.

    Learnt from, or tried again by a distiller, it would tell what `evaluate` asks. Suites that are not
    installed here hold nothing out.
    """
    held: dict[str, frozenset[str]] = {}
    for task in (trajectory.task for trajectory in trajectories if not trajectory.task.is_held_out):
        if task.suite not in held:
            held[task.suite] = _held_out(task.suite, kit)
        if task.id in held[task.suite]:
            raise DataError(
                f"task `{task.id}` is held out by the suite `{task.suite}`, it is none of `{task.split}`",
                hint="nothing was imported; count it to a split such as `holdout`",
                task=task.id,
            )


def _held_out(name: str, kit: Kit) -> frozenset[str]:
    try:
        suite = kit.suite(name)
    except AgentkdError:
        return frozenset()
    splits = [split for split in suite.splits() if is_held_out(split)]
    return frozenset(task.id for split in splits for task in suite.tasks(split))
