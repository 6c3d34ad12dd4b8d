"""Probes: the training-side requests that a memory rests on or was recalled for, replayed on a student.

Replays are kept under a split of their own that counts as held out, so that nothing is ever learnt from them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentkd.agents.turn import fitting
from agentkd.cycle.parts import Parts
from agentkd.cycle.stage import run_stage
from agentkd.protocols import Recaller, Suite
from agentkd.schema import (
    Hit,
    Memory,
    MemoryStatus,
    Outcome,
    Scope,
    Task,
    Trajectory,
    content_id,
    is_held_out,
)

if TYPE_CHECKING:
    from agentkd.memory import MemoryStore

__all__ = [
    "PROBE_SPLIT",
    "AsServed",
    "Serving",
    "TaskKey",
    "Withheld",
    "Withholding",
    "by_suite",
    "key_of",
    "probes_of",
    "replay",
    "replayed",
]

PROBE_SPLIT = "test-probe"
"""Split of replayed tasks: by its name nothing is learnt from it."""

TaskKey = tuple[str, str]
"""Suite and id of a task."""


@dataclass(frozen=True)
class AsServed:
    """What of its memories a student that serves does not see, where each request counts as a new one."""

    retired: Collection[str]
    """Memories that left its context: their places stay empty, whatever their statuses say so far."""
    own: Mapping[str, Collection[str]]
    """Memories that rest on a request itself, by its text: they would give the answer away."""

    def own_of(self, state: str) -> set[str]:
        """Return the memories that rest on the request which a state begins with."""
        held = (ids for text, ids in self.own.items() if state == text or state.startswith(f"{text}\n"))
        return {id_ for ids in held for id_ in ids}

    def named(self) -> list[object]:
        """Return what tells it from others, as values."""
        return ["as served", sorted(self.retired), {text: sorted(ids) for text, ids in self.own.items()}]


Withheld = Collection[str] | AsServed | None
"""Memories whose places the next best take, what is not shown where a student serves, or all of them."""

_RETIRED: tuple[MemoryStatus, ...] = ("retired",)
_LOOKED_AT = 4  # trajectories per wanted probe: several may be of one task


def key_of(task: Task) -> TaskKey:
    """Return what names a task."""
    return task.suite, task.id


def probes_of(parts: Parts, memories: Iterable[Memory], most: int) -> dict[str, list[Task]]:
    """Return at most `most` training tasks per memory: what it rests on first, then what recalled it.

    Tasks that no suite has here (any more) and requests without a suite cannot be graded and are left out; a
    memory without any other has no probes.
    """
    found = list(memories)
    recalled = parts.ledger.memories.recalled_for(memory.id for memory in found)
    wanted: dict[str, list[str]] = {}
    for memory in found:
        rests_on = [*memory.evidence.trajectories, *sorted(recalled.get(memory.id, ()))]
        wanted[memory.id] = list(dict.fromkeys(rests_on))[: most * _LOOKED_AT]
    ids = dict.fromkeys(id_ for group in wanted.values() for id_ in group)
    found_in = [t for t in parts.ledger.trajectories.get_many(ids) if not t.task.is_held_out]
    known = {suite: _known(parts, suite) for suite in {t.task.suite for t in found_in}}
    tasks = {t.id: t.task for t in found_in if t.task.id in known[t.task.suite]}
    probes = {}
    for memory_id, group in wanted.items():
        own = {key_of(tasks[id_]): tasks[id_] for id_ in group if id_ in tasks}
        probes[memory_id] = list(own.values())[:most]
    return probes


def _known(parts: Parts, name: str) -> set[str]:
    """Return the ids of the tasks of a suite that are not held out; none where it is not there."""
    if name not in parts.registry.names("suite"):
        return set()
    suite = parts.suite(name)
    return {task.id for split in suite.splits() if not is_held_out(split) for task in suite.tasks(split)}


def replay(
    parts: Parts,
    tasks: Iterable[Task],
    model: str,
    *,
    withheld: Withheld = None,
    occasion: str = "",
    label: str = "probe",
) -> dict[TaskKey, Trajectory]:
    """Run a model over probes, all of a suite at one time; returns the graded trajectories.

    Args:
        parts: The workspace.
        tasks: The probes; each is run once.
        model: `base` or `agentkd/<checkpoint>`.
        withheld: Memories that are not recalled, the next best in their places, or what is not shown as the
            student serves; None recalls nothing at all.
        occasion: What the recall rests on besides, such as the key of a phase.
        label: What progress calls it.

    What was replayed under the same conditions is not run again.
    """
    for name, probes in by_suite(tasks):
        run_stage(
            parts,
            suite=_Probing(parts.suite(name)),
            tasks=probes,
            run_id=_run_id(parts, probes, model, withheld, occasion),
            model=model,
            uses_memory=withheld is not None,
            label=label,
            has_trials=False,
            recaller=_recaller(parts, withheld),
        )
    return replayed(parts, tasks, model, withheld=withheld, occasion=occasion)


def replayed(
    parts: Parts,
    tasks: Iterable[Task],
    model: str,
    *,
    withheld: Withheld = None,
    occasion: str = "",
) -> dict[TaskKey, Trajectory]:
    """Return what `replay` has stored under these conditions; runs nothing."""
    return {
        key_of(trajectory.task): trajectory
        for _, probes in by_suite(tasks)
        for trajectory in parts.ledger.trajectories.of_run(_run_id(parts, probes, model, withheld, occasion))
    }


def _recaller(parts: Parts, withheld: Withheld) -> Recaller | None:
    if withheld is None:
        return None
    if isinstance(withheld, AsServed):
        return Serving(parts.memory, withheld)
    return Withholding(parts.memory, withheld)


def by_suite(tasks: Iterable[Task]) -> list[tuple[str, list[Task]]]:
    """Return tasks as probes, each once, by suite and id."""
    groups: dict[str, dict[str, Task]] = {}
    for task in tasks:
        probe = task.model_copy(update={"split": PROBE_SPLIT})
        groups.setdefault(task.suite, {}).setdefault(task.id, probe)
    return [(suite, [group[id_] for id_ in sorted(group)]) for suite, group in sorted(groups.items())]


def _run_id(parts: Parts, probes: Sequence[Task], model: str, withheld: Withheld, occasion: str) -> str:
    """Return the id of a replay: the same probes under the same conditions are one run."""
    settings = parts.settings
    called = settings.models.model_dump(include={"max_new_tokens", "temperature", "dtype"})
    named = withheld.named() if isinstance(withheld, AsServed) else withheld and sorted(withheld)
    recall = "no memory" if withheld is None else (named or [], occasion)
    return content_id(
        "run", "probe", probes, model, parts.student_files.base_id, settings.agent, called, recall
    )


class Withholding:
    """Recalls as the memories do, without some of them."""

    def __init__(self, recaller: Recaller, withheld: Iterable[str]) -> None:
        self._recaller = recaller
        self._withheld = frozenset(withheld)

    def recall(
        self, state: str, k: int | None = None, *, scope: Scope | None = None, checkpoint: str = "base",
        exclude: Iterable[str] = (),
    ) -> list[Hit]:  # fmt: skip
        """Return the hits for a state; the places of withheld memories are taken by the next best."""
        out = self._withheld | set(exclude)
        return self._recaller.recall(state, k, scope=scope, checkpoint=checkpoint, exclude=out)

    def render(self, hits: Sequence[Hit]) -> str:
        """Return the hits as notes."""
        return self._recaller.render(hits)

    def fitting(self, hits: Sequence[Hit]) -> Sequence[Hit]:
        """Return the hits that the notes show."""
        return fitting(self._recaller, hits)


class Serving:
    """Recalls as it will be where a student serves; see `AsServed`."""

    def __init__(self, memory: MemoryStore, served: AsServed) -> None:
        self._memory = memory
        self._served = served
        self._retired = frozenset(served.retired)

    def recall(
        self, state: str, k: int | None = None, *, scope: Scope | None = None, checkpoint: str = "base",
        exclude: Iterable[str] = (),
    ) -> list[Hit]:  # fmt: skip
        """Return the hits for a state."""
        return self.recall_many([state], k, scope=scope, checkpoint=checkpoint, exclude=exclude)[0]

    def recall_many(
        self, states: Sequence[str], k: int | None = None, *, scope: Scope | None = None,
        checkpoint: str = "base", exclude: Iterable[str] = (),
    ) -> list[list[Hit]]:  # fmt: skip
        """Return the hits for several states."""
        out = [{*exclude, *self._served.own_of(state)} for state in states]
        found = self._memory.recall_many(
            states, k, scope=scope, checkpoint=checkpoint, exclude=out, also=_RETIRED
        )
        return [[hit for hit in hits if hit.memory.id not in self._retired] for hits in found]

    def render(self, hits: Sequence[Hit]) -> str:
        """Return the hits as notes."""
        return self._memory.render(hits)

    def fitting(self, hits: Sequence[Hit]) -> Sequence[Hit]:
        """Return the hits that the notes show."""
        return self._memory.fitting(hits)


class _Probing:
    """A suite whose grader keeps the answers to itself: a replay brings no corrections."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self.name = suite.name

    def splits(self) -> Mapping[str, int]:
        """Return the splits of the suite."""
        return self._suite.splits()

    def tasks(self, split: str, n: int | None = None, seed: int = 0) -> Sequence[Task]:
        """Return tasks of the suite."""
        return self._suite.tasks(split, n, seed)

    def environment(self, task: Task) -> Any:
        """Make the world of a task."""
        return self._suite.environment(task)

    def grade(self, trajectory: Trajectory) -> Outcome:
        """Judge a replay."""
        outcome = self._suite.grade(trajectory)
        return outcome.model_copy(update={"expected": (), "expected_answer": ""})

    def baselines(self, train: Sequence[Task], kit: Any) -> Sequence[Any]:
        """Return the baselines of the suite."""
        return self._suite.baselines(train, kit)
