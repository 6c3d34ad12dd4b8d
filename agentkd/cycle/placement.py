"""The phase `place`: measures per cluster of memories what context and weights do for its tasks, and decides.

What it decides on tasks of `[place] split`, by a student that is promoted, is followed by the next `compile`
(what goes into rows, what rows show) and by `retire` (what leaves the context): see `agentkd.cycle.placed`.
Without such a split it reads the tasks that the gate decides on: its decisions are shown and not followed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from agentkd.cycle.evaluation import Arm, arm_of, arm_runs
from agentkd.cycle.journal import Plan
from agentkd.cycle.parts import Parts
from agentkd.cycle.placed import measured_places
from agentkd.cycle.stage import StageResult
from agentkd.schema import (
    Evaluation,
    Memory,
    Place,
    Placement,
    Task,
    Trajectory,
    Verdict,
    place_of,
)

if TYPE_CHECKING:
    from agentkd.evaluate import Cell, Cluster

__all__ = ["place_memories", "place_phase"]

_TRAINED: dict[Place, str] = {
    "neither": "base", "context": "base + memory", "weights": "student", "both": "student + memory",
}  # fmt: skip
_SHOWN: dict[Place, str] = {"neither": "student", "context": "student + memory"}

Runs = Mapping[str, Mapping[str, Trajectory]]  # by arm and task


def place_phase(
    parts: Parts, plan: Plan, candidate: str, evaluations: Sequence[Evaluation], verdict: Verdict
) -> StageResult:
    """Decide where the recalled memories belong; what is worth nothing leaves the candidate's context."""
    found: list[Placement] = []
    own = parts.settings.place.split
    has_arms = bool(evaluations) and (bool(own) or set(_TRAINED.values()) <= _arms(evaluations[0]))
    if has_arms and parts.settings.place.max_clusters:
        split = own or evaluations[0].split
        tasks = parts.suite(plan.suite).tasks(split, parts.settings.evaluate.n, plan.seed)
        found = place_memories(parts, candidate, tasks, seed=plan.seed)
    leaving = [each for each in found if each.is_measured and each.place == "neither"]

    def settle() -> None:
        for placement in leaving if verdict.promote and own else ():
            for id_ in placement.memories:
                parts.ledger.memories.set_status(id_, "retired", placement.reason, checkpoint=candidate)

    counts = Counter(each.place if each.is_measured else "too few tasks" for each in found)
    said = ", ".join(f"{n} {place}" for place, n in sorted(counts.items())) or "nothing to measure"
    why = "`[place] split` is not set" if not own else "" if verdict.promote else "the candidate was refused"
    shown = f"; shown, not followed: {why}" if why and found else ""
    return StageResult(
        f"{len(found)} clusters of memories: {said}{shown}",
        {
            "is_followed": bool(own),
            "is_promoted": verdict.promote,
            "base_id": parts.student_files.base_id,
            "placements": [each.model_dump(mode="json") for each in found],
        },
        settle=settle,
    )


def place_memories(parts: Parts, candidate: str, tasks: Sequence[Task], *, seed: int = 0) -> list[Placement]:
    """Try every cluster's tasks in each way and decide; what was run already is only read.

    Args:
        parts: The workspace; its memories must be in the context of base and candidate.
        candidate: Checkpoint whose weights are weighed against the context.
        tasks: Tasks of one suite that are kept from training.
        seed: Seed of the runs and the bootstrap.
    """
    from agentkd.evaluate import decide_place

    ways = [arm_of(name, candidate, "base") for name in _TRAINED.values()]
    arms = {arm.name: arm for arm in ways if arm is not None}
    runs: Runs = {name: arm_runs(parts, arm, tasks, seed) for name, arm in arms.items()}
    measured = _Measurement(parts, candidate, tasks, arms, runs, seed)
    settings, found = parts.settings.place, []
    for group in measured.groups():
        cluster, cells = measured.cluster(group), measured.cells(group)
        found.append(decide_place(cluster, cells, settings, seed=seed))
    return found


def _arms(evaluation: Evaluation) -> set[str]:
    return {arm.name for arm in evaluation.arms}


@dataclass
class _Measurement:
    """The runs of the four arms, and what they say of a cluster."""

    parts: Parts
    candidate: str
    tasks: Sequence[Task]
    arms: Mapping[str, Arm]
    runs: Runs
    seed: int

    def groups(self) -> list[list[Memory]]:
        """Return the recalled memories by cluster: facts apart from lessons, the most recalled first."""
        from agentkd.memory.cluster import clusters

        recalled = Counter(id_ for task in self.tasks for id_ in self._recalled(task.id))
        memories = self.parts.ledger.memories.get_many(recalled)
        settings, found = self.parts.settings.place, []
        for is_fact in (False, True):
            kind = sorted((m for m in memories if (m.kind == "fact") is is_fact), key=lambda m: m.id)
            if kind:
                vectors = self.parts.embedder().embed([memory.when_to_use for memory in kind])
                found += [[kind[row] for row in rows] for rows in clusters(vectors, settings.alike)]
        found.sort(key=lambda group: (-sum(recalled[m.id] for m in group), group[0].id))
        return found[: settings.max_clusters]

    def cluster(self, group: Sequence[Memory]) -> Cluster:
        """Return what is judged, with the measured prices of a prompt token and of the training."""
        from agentkd.evaluate import Cluster

        read = self.runs["base + memory"].values()
        usages = [run.usage for run in read]
        usd, seconds = sum(u.usd or 0.0 for u in usages), sum(u.seconds for u in usages)
        n_tokens = max(1, sum(u.prompt_tokens + u.completion_tokens for u in usages))
        checkpoint, settings = self.parts.checkpoint(self.candidate), self.parts.settings.place
        trained = checkpoint.metrics.get("seconds", 0.0) * self._share_of_rows(group) / settings.horizon
        words = Counter(word for memory in group for word in {*memory.when_to_use.lower().split()})
        return Cluster(
            name=" ".join(sorted(words, key=lambda word: (-words[word], word))[:4]),
            memories=tuple(memory.id for memory in group),
            is_fact=group[0].kind == "fact",
            token_price=(usd if usd else seconds) / n_tokens,
            training_price=trained * settings.usd_per_hour / 3600 if usd else trained,
            unit="usd" if usd else "seconds",
        )

    def cells(self, group: Sequence[Memory]) -> list[Cell]:
        """Return the ways in which the cluster's tasks were tried, on the tasks that all of them share."""
        from agentkd.evaluate import Cell

        ids = {memory.id for memory in group}
        places = _TRAINED if self._share_of_rows(group) else _SHOWN
        concerned = [task for task in self.tasks if ids & self._recalled(task.id)]
        found: dict[Place, Mapping[str, Trajectory]] = {}
        for place, name in places.items():
            is_withheld = place in ("neither", "weights")
            found[place] = self._withheld(name, concerned, ids) if is_withheld else self.runs[name]
        shared = [task.id for task in concerned if all(task.id in runs for runs in found.values())]
        return [
            Cell(
                place,
                [runs[id_].success and runs[id_].failure is None for id_ in shared],
                [runs[id_].usage.prompt_tokens for id_ in shared],
            )
            for place, runs in found.items()
        ]

    def _withheld(self, name: str, tasks: Sequence[Task], ids: set[str]) -> dict[str, Trajectory]:
        """Return the runs of an arm with a cluster withheld and all other memories as they are.

        Where nothing else was recalled that is the arm without memory; else up to `[place] extra_tasks`
        tasks are run again.
        """
        alone = {task.id for task in tasks if self._recalled(task.id, f"{name} + memory") <= ids}
        found = {id_: run for id_, run in self.runs[name].items() if id_ in alone}
        others = [task for task in tasks if task.id not in alone][: self.parts.settings.place.extra_tasks]
        if others:
            arm = Arm(f"{name} + memory", self.arms[name].model, True, tuple(sorted(ids)))
            found |= arm_runs(self.parts, arm, others, self.seed)
        return found

    def _recalled(self, task_id: str, *names: str) -> set[str]:
        arms = names or ("base + memory", "student + memory")
        runs = [self.runs[name].get(task_id) for name in arms]
        return {id_ for run in runs if run is not None for id_ in run.recalled}

    def _share_of_rows(self, group: Sequence[Memory]) -> float:
        """Return the share of the candidate's rows that teach these memories, and do not merely show them."""
        places = measured_places(self.parts)
        taught = {memory.id for memory in group if place_of(memory, places) != "context"}
        return sum(not taught.isdisjoint(row) for row in self._rows) / max(1, len(self._rows))

    @cached_property
    def _rows(self) -> list[tuple[str, ...]]:
        """The memories under each row that the candidate was trained on."""
        dataset_id = self.parts.checkpoint(self.candidate).dataset_id
        return [row.provenance.memories for row in self.parts.ledger.datasets.rows(dataset_id, "train")]
