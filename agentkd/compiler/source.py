"""Where trajectories come from: task by task, so that a compilation never holds them all."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

from agentkd.schema import ASSESS_SPLIT, SYNTHETIC_SPLIT, Correction, Scope, Trajectory, is_held_out

if TYPE_CHECKING:
    from agentkd.ledger import Ledger

__all__ = ["LedgerTraces", "ListedTraces", "Trace", "TraceKey", "Traces", "by_task"]

TraceKey = tuple[str, str, str]
"""Suite, task id and trajectory id."""

_BATCH = 128  # trajectories that are in memory at one time, unless one task has more


@dataclass(frozen=True)
class Trace:
    """A trajectory with what was said about it."""

    trajectory: Trajectory
    """What happened."""
    corrections: Sequence[Correction] = ()
    """Corrections of it, oldest first."""


class Traces(Protocol):
    """Trajectories that can be read twice, in pieces."""

    def keys(self) -> Sequence[TraceKey]:
        """Return the key of every trajectory, sorted."""

    def load(self, ids: Sequence[str]) -> Sequence[Trace]:
        """Return the trajectories with these ids, in any order."""


class ListedTraces:
    """Trajectories that are in memory anyway."""

    def __init__(
        self,
        trajectories: Sequence[Trajectory],
        corrections: Mapping[str, Sequence[Correction]] | None = None,
    ) -> None:
        self._traces = {t.id: Trace(t, (corrections or {}).get(t.id, ())) for t in trajectories}

    def keys(self) -> Sequence[TraceKey]:
        """Return the key of every trajectory, sorted."""
        found = (trace.trajectory for trace in self._traces.values())
        return sorted((t.task.suite, t.task.id, t.id) for t in found)

    def load(self, ids: Sequence[str]) -> Sequence[Trace]:
        """Return the trajectories with these ids."""
        return [self._traces[id_] for id_ in ids]


class LedgerTraces:
    """The finished trajectories of a ledger; without a split, those of all splits that are not held out.

    What a teacher wrote for the suite is among them either way, and a student's exams never are. With a scope
    those of other tenants are left out.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        suite: str | None = None,
        split: str | None = None,
        scope: Scope | None = None,
    ) -> None:
        self._ledger = ledger
        self._scope = scope
        self._suite = suite
        self._split = split

    def keys(self) -> Sequence[TraceKey]:
        """Return the key of every trajectory, sorted; bodies stay in the ledger."""
        found = list(self._ledger.trajectories.keys(self._suite, self._split))
        if self._split not in (None, SYNTHETIC_SPLIT):
            found += self._ledger.trajectories.keys(self._suite, SYNTHETIC_SPLIT)
        return sorted(
            (sys.intern(suite), task_id, id_)
            for suite, task_id, id_, split in found
            if self._split is not None or not (is_held_out(split) or split == ASSESS_SPLIT)
        )

    def load(self, ids: Sequence[str]) -> Sequence[Trace]:
        """Read trajectories with their corrections."""
        said: dict[str, list[Correction]] = {}
        for correction in self._ledger.corrections.for_trajectories(ids):
            said.setdefault(correction.trajectory_id, []).append(correction)
        found = self._ledger.trajectories.get_many(ids)
        mine = [t for t in found if self._scope is None or self._scope.may_teach(t.scope)]
        return [Trace(t, said.get(t.id, ())) for t in mine]


def by_task(traces: Traces, keys: Sequence[TraceKey]) -> Iterator[list[Trace]]:
    """Yield the traces of one task after another, read a few tasks at a time, ordered by their ids."""
    waiting: list[list[str]] = []
    for _, found in groupby(keys, key=lambda key: key[:2]):
        waiting.append([key[2] for key in found])
        if sum(map(len, waiting)) >= _BATCH:
            yield from _read(traces, waiting)
            waiting = []
    yield from _read(traces, waiting)


def _read(traces: Traces, tasks: Sequence[Sequence[str]]) -> Iterator[list[Trace]]:
    loaded = {trace.trajectory.id: trace for trace in traces.load([id_ for ids in tasks for id_ in ids])}
    for ids in tasks:
        there = [loaded.pop(id_) for id_ in ids if id_ in loaded]
        if there:
            yield there
