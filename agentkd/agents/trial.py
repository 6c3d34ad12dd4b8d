"""Trials: on a share of the tasks memories are withheld, so that what they are worth can be measured.

A trial withholds everything that was recalled for a task, or one memory while the others stay: the first
measures recall as a whole, the second that memory. Which tasks are trials is decided by a hash of the
trajectory's id, so that it depends on nothing that bears on the outcome. Held-out tasks are never trials.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from agentkd.config import MemorySettings
from agentkd.schema import Hit, Lift, Scope, Task, Value

if TYPE_CHECKING:
    from agentkd.ledger import Ledger, ScopeCounts

__all__ = ["Trial", "TrialPolicy", "scope_text"]


class Trial(Value):
    """What one run shows of its memories; decided before its first turn and kept in its state."""

    arm: Literal["shown", "one", "withheld"] = "shown"
    """All that is recalled, all but one memory, or nothing."""
    scope: Scope = Scope()
    """Whose tasks it counts for."""
    at: int = 0
    """Of the recalls of the run that find something, the one that withholds one memory, from 0."""
    found: int = 0
    """Recalls that found something so far."""
    held: tuple[str, ...] = ()
    """Ids of the memories that were withheld so far; none of them is shown later."""
    off: Lift | None = None
    """The scope's lift where recall is switched off for it."""


class TrialPolicy:
    """Decides what each run of a scope is shown; safe to use from several threads.

    Recall is switched off where the scope's lift is negative with certainty `[memory] trial_level`, over
    its newest `trial_window` tasks and with `trial_tasks` of either sort at least: at once, even in the
    middle of a run, for it is a brake. Then the roles are reversed: the share of trials sees
    memories, so that recall comes back by itself when it helps again.
    Where nobody grades the tasks of a scope, a trial would measure nothing, so there are none.
    """

    def __init__(
        self,
        ledger: Ledger,
        settings: MemorySettings,
        scope: Scope,
        *,
        seed: int = 0,
        say: Callable[[str], None] | None = None,
        waits: bool = False,
        k: int | None = None,
    ) -> None:
        """Put a policy together; `say` is told when recall is switched off or on again.

        `k` is how many memories one recall finds at most; `[memory] k` where it is left out.

        One that `waits` has no trials before the first task of its scope was graded: for an application's
        own agent, whose tasks perhaps nobody will ever grade.
        """
        self.scope = scope
        self._ledger = ledger
        self._settings = settings
        self._seed = seed
        self._say = say
        self._waits = waits
        self._k = settings.k if k is None else k
        self._was_off = False
        self._lock = threading.Lock()

    def plan(self, trajectory_id: str, task: Task) -> Trial:
        """Decide what a run is shown."""
        if task.is_held_out:
            return Trial(scope=self.scope)
        counts = self._ledger.trials.of(self.scope, self._settings.trial_window)
        off = counts.off(self._settings)
        self._tell(off)
        is_trial = self._draw("trial", trajectory_id) < self._share(counts)
        if off is not None:
            return Trial(arm="shown" if is_trial else "withheld", scope=self.scope, off=off)
        if not is_trial:
            return Trial(scope=self.scope)
        is_whole = self._draw("all", trajectory_id) < self._settings.trial_all
        if is_whole:
            return Trial(arm="withheld", scope=self.scope)
        return Trial(arm="one", scope=self.scope, at=int(self._draw("at", trajectory_id) * self._recalls()))

    def divide(
        self, trial: Trial, hits: Sequence[Hit], trajectory_id: str
    ) -> tuple[Trial, tuple[Hit, ...], tuple[Hit, ...]]:
        """Return the trial as it goes on, the hits to show and those to withhold."""
        if not hits or trial.arm == "shown":
            return trial, tuple(hits), ()
        is_due = trial.arm == "withheld" or trial.found == trial.at
        trial = trial.model_copy(update={"found": trial.found + 1})
        if not is_due:
            return trial, tuple(hits), ()
        ids = self._chosen(trial, hits, trajectory_id)
        shown = tuple(hit for hit in hits if hit.memory.id not in ids)
        withheld = tuple(hit for hit in hits if hit.memory.id in ids)
        return trial.model_copy(update={"held": (*trial.held, *ids)}), shown, withheld

    def _chosen(self, trial: Trial, hits: Sequence[Hit], trajectory_id: str) -> tuple[str, ...]:
        """Return the ids to withhold: all, or the hit in a place that is drawn among the `k` of a recall.

        Every hit of every recall is chosen with the same chance on every task, and none where the place is
        empty: a choice by what is known so far, or of early hits alone, would withhold a memory from other
        tasks than those that see it. What speaks against a revoked memory is always shown.
        """
        ids = tuple(hit.memory.id for hit in hits if not hit.memory.counters)
        if trial.arm == "withheld":
            return ids
        place = int(self._draw("one", trajectory_id, *ids) * max(self._k, len(ids)))
        return ids[place : place + 1]

    def _recalls(self) -> int:
        """Return how many recalls of a run find something, but for the longest twentieth of the runs."""
        counts = sorted(self._ledger.trials.recalls_per_task(self.scope))
        return counts[int(0.95 * (len(counts) - 1))] if counts else 1

    def _share(self, counts: ScopeCounts) -> float:
        graded = counts.n_shown + counts.n_withheld + counts.n_one
        may_come = not self._waits and counts.n_open < self._settings.trial_tasks
        is_graded = graded > 0 or may_come
        return self._settings.trial_share if is_graded else 0.0

    def _tell(self, off: Lift | None) -> None:
        with self._lock:
            is_changed, self._was_off = self._was_off != (off is not None), off is not None
        if not is_changed or self._say is None:
            return
        where = scope_text(self.scope)
        if off is None:
            self._say(f"recall is on again for {where}: its lift is no longer credibly negative")
        else:
            self._say(f"recall is off for {where}, but on trials: its lift is {off.text()}")

    def _draw(self, *key: str) -> float:
        """Return a number in [0, 1) that depends on the key and the seed alone."""
        digest = hashlib.sha256("\n".join((str(self._seed), *key)).encode(errors="surrogatepass")).digest()
        return int.from_bytes(digest[:7], "big") / 2**56


def scope_text(scope: Scope) -> str:
    """Return a scope as `app=shop, user=ann`."""
    return ", ".join(f"{name}={value}" for name, value in scope.model_dump().items() if value) or "all tasks"
