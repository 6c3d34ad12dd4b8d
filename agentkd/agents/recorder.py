"""Write a run into the ledger while it happens, and tell the plugins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentkd import hookspecs
from agentkd.agents.feedback import tool_corrections
from agentkd.agents.trial import Trial
from agentkd.plugins import Hooks
from agentkd.schema import Correction, Hit, Step, Trajectory

if TYPE_CHECKING:
    from agentkd.ledger import Ledger

__all__ = ["Recorder"]


class Recorder:
    """Stores steps, recalls, corrections and the finished trajectory; hooks are told after the commit.

    Without a ledger it stores nothing and only tells the plugins.
    """

    def __init__(self, ledger: Ledger | None, hooks: Hooks) -> None:
        self._ledger = ledger
        self._hooks = hooks

    def next_attempt(self, run_id: str, task_id: str) -> int:
        """Return the number after the last finished attempt at a task in a run; 0 for the first."""
        done = set() if self._ledger is None else self._ledger.trajectories.done_tasks(run_id)
        return max((attempt + 1 for task, attempt in done if task == task_id), default=0)

    def begin(self, trajectory: Trajectory) -> None:
        """Open a trajectory and drop what a killed try left of it."""
        if self._ledger is not None:
            self._ledger.trajectories.begin(trajectory.model_copy(update={"steps": ()}))

    def step(
        self,
        trajectory: Trajectory,
        step: Step,
        hits: Sequence[Hit] = (),
        corrections: Sequence[Correction] = (),
        *,
        withheld: Sequence[Hit] = (),
        trial: Trial | None = None,
    ) -> None:
        """Store one turn with its recalls and corrections; safe to repeat.

        `withheld` is what was found but not shown; with a `trial` the task counts for its scope's lift.

        The first turn opens the trajectory, so that a model that cannot be reached leaves nothing. Recalls
        of held-out tasks are not stored: their outcome must not move a memory's utility.
        """
        if self._ledger is not None:
            with self._ledger.transaction():
                if step.index == 0:
                    self.begin(trajectory)
                self._ledger.trajectories.add_step(trajectory.id, step)
                found = [*hits, *withheld]
                if found and not trajectory.task.is_held_out:
                    kept_out = {hit.memory.id for hit in withheld}
                    self._ledger.memories.record_recall(trajectory.id, step.index, found, kept_out)
                    if trial is not None:
                        self._ledger.trials.record(trajectory.id, trial.arm, trial.scope)
                fresh = [c for c in corrections if self._ledger.corrections.add(c)]
        else:
            fresh = list(corrections)
        self._hooks.ask(hookspecs.after_step, trajectory=trajectory, step=step)
        for correction in fresh:
            self._hooks.ask(hookspecs.after_correction, correction=correction)

    def finish(self, trajectory: Trajectory, corrections: Sequence[Correction] = ()) -> None:
        """Store a finished trajectory and its corrections in one transaction; once however often called.

        Corrections that the run holds within itself (a tool refused, the agent mended it) are added.
        """
        corrections = [*corrections, *tool_corrections(trajectory)]
        is_new, fresh = True, corrections
        if self._ledger is not None:
            with self._ledger.transaction():
                is_new = self._ledger.trajectories.finish(trajectory)
                fresh = [c for c in corrections if self._ledger.corrections.add(c)]
        if is_new:
            self._hooks.ask(hookspecs.after_run, trajectory=trajectory)
        for correction in fresh:
            self._hooks.ask(hookspecs.after_correction, correction=correction)
