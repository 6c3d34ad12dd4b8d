"""Runs distillers over trajectories and gathers their candidates: one memory per lesson, few per run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from pydantic import Field

from agentkd.config import DistillSettings
from agentkd.distill.lesson import DistillFailure
from agentkd.errors import PluginError
from agentkd.plugins import blaming
from agentkd.protocols import Distiller, Kit
from agentkd.schema import Correction, Evidence, Memory, Trajectory, Value

__all__ = ["Distilled", "distill_all", "distill_report"]


class Distilled(Value):
    """What one round of distilling gave."""

    memories: tuple[Memory, ...] = ()
    """Candidates, deduplicated and capped."""
    failures: tuple[DistillFailure, ...] = ()
    """Answers that could not be understood."""
    n_trajectories: int = 0
    """Trajectories that were read."""
    n_held_out: int = 0
    """Trajectories of held-out splits, which nothing is learnt from."""
    n_left_out: int = 0
    """Candidates beyond the cap per trajectory."""
    by_distiller: dict[str, int] = Field(default_factory=dict)
    """Candidates per distiller, before deduplication."""

    @property
    def summary(self) -> str:
        """Return one sentence for a report."""
        parts = [f"{len(self.memories)} candidates from {self.n_trajectories} trajectories"]
        if self.n_left_out:
            parts.append(f"{self.n_left_out} beyond the cap left out")
        if self.n_held_out:
            parts.append(f"{self.n_held_out} held-out trajectories not read")
        if self.failures:
            parts.append(f"{len(self.failures)} answers not understood")
        return "; ".join(parts)


@runtime_checkable
class _Attempting(Protocol):
    """A distiller that hands its failures over as values."""

    def attempt(
        self, trajectories: Sequence[Trajectory], corrections: Sequence[Correction], kit: Kit
    ) -> Iterator[Memory | DistillFailure]: ...


def distill_all(
    trajectories: Sequence[Trajectory],
    corrections: Sequence[Correction],
    distillers: Sequence[Distiller],
    kit: Kit,
    settings: DistillSettings,
) -> list[Memory]:
    """Return the candidates of `distill_report`; its summary and failures go to `kit.progress`."""
    return list(distill_report(trajectories, corrections, distillers, kit, settings).memories)


def distill_report(
    trajectories: Sequence[Trajectory],
    corrections: Sequence[Correction],
    distillers: Sequence[Distiller],
    kit: Kit,
    settings: DistillSettings,
) -> Distilled:
    """Run every distiller, deduplicate by memory id and cap per trajectory.

    Trajectories of held-out splits and their corrections are never shown to a distiller.

    Raises:
        PluginError: a distiller raised, or yielded something that is not a memory.
        ConfigError: a distiller needs a model and no role has one.
        ModelError: the distiller's model could not be reached at all, or a ceiling was met.
    """
    readable = [trajectory for trajectory in trajectories if not trajectory.task.is_held_out]
    ids = {trajectory.id for trajectory in readable}
    given = [correction for correction in corrections if correction.trajectory_id in ids]
    found: list[Memory] = []
    failures: list[DistillFailure] = []
    counts: dict[str, int] = {}
    for distiller in distillers:
        before = len(found)
        for item in _run(distiller, readable, given, kit):
            if isinstance(item, DistillFailure):
                failures.append(item)
            else:
                found.append(item)
        counts[distiller.name] = len(found) - before
    merged = _merge(found)
    kept = _cap(merged, settings.max_memories_per_trajectory)
    report = Distilled(
        memories=tuple(kept),
        failures=tuple(failures),
        n_trajectories=len(readable),
        n_held_out=len(trajectories) - len(readable),
        n_left_out=len(merged) - len(kept),
        by_distiller=counts,
    )
    for failure in failures:
        kit.progress.say(f"{failure.distiller}: {', '.join(failure.trajectories)}: {failure.error}")
    kit.progress.say(f"distill: {report.summary}")
    return report


def _run(
    distiller: Distiller, trajectories: Sequence[Trajectory], corrections: Sequence[Correction], kit: Kit
) -> list[Memory | DistillFailure]:
    plugin = getattr(distiller, "plugin", "") or distiller.name
    with blaming(plugin, f"distiller `{distiller.name}`"):
        if isinstance(distiller, _Attempting):
            items: list[Memory | DistillFailure] = list(distiller.attempt(trajectories, corrections, kit))
        else:
            items = list(distiller.distill(trajectories, corrections, kit))
    for item in items:
        if not isinstance(item, (Memory, DistillFailure)):
            raise PluginError(
                f"plugin `{plugin}`: distiller `{distiller.name}` yielded `{type(item).__name__}`, "
                "not a Memory",
                hint="yield `agentkd.Memory` values",
                plugin=plugin,
            )
    return items


def _merge(memories: Sequence[Memory]) -> list[Memory]:
    merged: dict[str, Memory] = {}
    for memory in memories:
        other = merged.get(memory.id)
        merged[memory.id] = memory if other is None else _union(other, memory)
    return list(merged.values())


def _union(first: Memory, second: Memory) -> Memory:
    evidence = Evidence(
        trajectories=_joined(first.evidence.trajectories, second.evidence.trajectories),
        corrections=_joined(first.evidence.corrections, second.evidence.corrections),
        steps=_joined(first.evidence.steps, second.evidence.steps),
    )
    return first.model_copy(
        update={
            "evidence": evidence,
            "support": max(len(evidence.trajectories), 1),
            "confidence": max(first.confidence, second.confidence),
        }
    )


def _joined(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*first, *second]))


def _cap(memories: Sequence[Memory], limit: int) -> list[Memory]:
    """Keep what is among the `limit` most confident of at least one trajectory that it rests on."""
    used: dict[str, int] = {}
    kept = set()
    for memory in sorted(memories, key=lambda m: -m.confidence):
        sources = memory.evidence.trajectories
        if sources and all(used.get(source, 0) >= limit for source in sources):
            continue
        kept.add(memory.id)
        for source in sources:
            used[source] = used.get(source, 0) + 1
    return [memory for memory in memories if memory.id in kept]
