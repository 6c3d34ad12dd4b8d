"""Runs distillers over trajectories and gathers their candidates: one memory per lesson, few per run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from pydantic import Field

from agentkd.config import DistillSettings
from agentkd.distill.ask import said_of
from agentkd.distill.finding import DistillFailure, Finding, Notice, Rejection
from agentkd.errors import PluginError
from agentkd.plugins import blaming
from agentkd.protocols import Distiller, Kit
from agentkd.schema import Correction, Evidence, Memory, MemoryKeys, Scope, Trajectory, Value, memory_id

__all__ = ["Distilled", "distill_all", "distill_report"]


_MAX_SPANS = 32
_MAX_KEYS = 8  # other requests by which a lesson is found, as many as the refiner `corroborate` keeps
_PERSONAL = ("preference", "parameter")  # what holds for whoever asked, and perhaps for nobody else
_OF_MANY_RUNS = ("strategy", "tool-note")  # one per scenario or tool: no single run gives many of them


class Distilled(Value):
    """What one round of distilling gave."""

    memories: tuple[Memory, ...] = ()
    """Candidates, deduplicated and capped."""
    failures: tuple[DistillFailure, ...] = ()
    """Answers that could not be understood."""
    rejected: tuple[Rejection, ...] = ()
    """Lessons that were understood and refused: their evidence did not hold."""
    notices: tuple[str, ...] = ()
    """Remarks of the distillers on their own work, each once."""
    counts: dict[str, int] = Field(default_factory=dict)
    """Figures of the distillers, such as `contrast: hard pairs`."""
    n_trajectories: int = 0
    """Trajectories that were read."""
    n_held_out: int = 0
    """Trajectories of held-out splits, which nothing is learnt from."""
    n_left_out: int = 0
    """Candidates beyond the cap per trajectory."""
    by_distiller: dict[str, int] = Field(default_factory=dict)
    """Candidates per distiller, before deduplication."""

    @property
    def rejected_by_reason(self) -> dict[str, int]:
        """Return how many lessons were refused for each reason."""
        reasons = [rejection.reason for rejection in self.rejected]
        return {reason: reasons.count(reason) for reason in sorted(set(reasons))}

    @property
    def summary(self) -> str:
        """Return one sentence for a report."""
        parts = [f"{len(self.memories)} candidates from {self.n_trajectories} trajectories"]
        if self.n_left_out:
            parts.append(f"{self.n_left_out} beyond the cap left out")
        if self.n_held_out:
            parts.append(f"{self.n_held_out} held-out trajectories not read")
        return "; ".join([*parts, *self.remarks])

    @property
    def remarks(self) -> list[str]:
        """Return what was not understood, what was refused and why, and the distillers' own figures."""
        parts = []
        if self.failures:
            parts.append(f"{len(self.failures)} answers not understood")
        if self.rejected:
            reasons = ", ".join(f"{n} {reason}" for reason, n in self.rejected_by_reason.items())
            parts.append(f"{len(self.rejected)} lessons refused ({reasons})")
        return [*parts, *(f"{name}: {n}" for name, n in self.counts.items() if n)]


@runtime_checkable
class _Attempting(Protocol):
    """A distiller that hands over as values what it refused and could not understand."""

    def attempt(
        self, trajectories: Sequence[Trajectory], corrections: Sequence[Correction], kit: Kit
    ) -> Iterator[Finding]: ...


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

    Trajectories of held-out splits and their corrections are never shown to a distiller. Those of different
    tenants are shown one tenant at a time, and what they teach belongs to that tenant. A preference
    or parameter that one user's runs teach is that user's.

    Raises:
        PluginError: a distiller raised, or yielded something that is not a memory.
        ConfigError: a distiller needs a model and no role has one.
        ModelError: the distiller's model could not be reached at all, or a ceiling was met.
    """
    readable = [trajectory for trajectory in trajectories if not trajectory.task.is_held_out]
    ids = {trajectory.id for trajectory in readable}
    given = [correction for correction in corrections if correction.trajectory_id in ids]
    items: list[Finding] = []
    by_distiller: dict[str, int] = {}
    for distiller in distillers:
        found = [item for group in _by_tenant(readable) for item in _of_tenant(distiller, group, given, kit)]
        by_distiller[distiller.name] = sum(isinstance(item, Memory) for item in found)
        items.extend(found)
    merged = _merge([item for item in items if isinstance(item, Memory)])
    kept = _cap(merged, settings.max_memories_per_trajectory)
    notices = [item for item in items if isinstance(item, Notice)]
    report = Distilled(
        memories=tuple(kept),
        failures=tuple(item for item in items if isinstance(item, DistillFailure)),
        rejected=tuple(item for item in items if isinstance(item, Rejection)),
        notices=tuple(dict.fromkeys(said_of(notice) for notice in notices if notice.text)),
        counts=_summed(notices),
        n_trajectories=len(readable),
        n_held_out=len(trajectories) - len(readable),
        n_left_out=len(merged) - len(kept),
        by_distiller=by_distiller,
    )
    for line in dict.fromkeys(said_of(item) for item in items):
        if line:
            kit.progress.say(line)
    kit.progress.say(f"distill: {report.summary}")
    return report


def _by_tenant(trajectories: Sequence[Trajectory]) -> list[list[Trajectory]]:
    groups: dict[str, list[Trajectory]] = {}
    for trajectory in trajectories:
        groups.setdefault(trajectory.scope.tenant, []).append(trajectory)
    return [groups[tenant] for tenant in sorted(groups)] or [[]]


def _of_tenant(
    distiller: Distiller, group: Sequence[Trajectory], corrections: Sequence[Correction], kit: Kit
) -> Iterator[Finding]:
    """Yield what a distiller finds in the runs of one tenant, for that tenant and, if personal, its user."""
    scopes, tenant = {t.id: t.scope for t in group}, group[0].scope.tenant if group else ""
    for item in _run(distiller, group, [c for c in corrections if c.trajectory_id in scopes], kit):
        yield _owned(item, scopes, tenant) if isinstance(item, Memory) else item


def _owned(memory: Memory, scopes: Mapping[str, Scope], tenant: str) -> Memory:
    """Return a memory for a tenant; a personal one is that of the only user whose runs it rests on."""
    changes = {"tenant": tenant} if tenant else {}
    users = {scopes[id_].user for id_ in memory.evidence.trajectories if id_ in scopes}
    user = users.pop() if memory.kind in _PERSONAL and len(users) == 1 else ""
    scope = memory.scope.model_copy(update=changes | ({"user": user} if user else {}))
    if scope == memory.scope:
        return memory
    id_ = memory_id(memory.kind, memory.when_to_use, memory.content, scope)
    privacy = "private" if user and memory.kind == "preference" else memory.privacy
    return memory.model_copy(update={"scope": scope, "id": id_, "privacy": privacy})


def _summed(notices: Sequence[Notice]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for notice in notices:
        for name, n in notice.counts.items():
            key = f"{notice.distiller}: {name}"
            totals[key] = totals.get(key, 0) + n
    return totals


def _run(
    distiller: Distiller, trajectories: Sequence[Trajectory], corrections: Sequence[Correction], kit: Kit
) -> list[Finding]:
    plugin = getattr(distiller, "plugin", "") or distiller.name
    with blaming(plugin, f"distiller `{distiller.name}`"):
        if isinstance(distiller, _Attempting):
            items: list[Finding] = list(distiller.attempt(trajectories, corrections, kit))
        else:
            items = list(distiller.distill(trajectories, corrections, kit))
    for item in items:
        if not isinstance(item, Finding):
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
        spans=tuple(dict.fromkeys([*first.evidence.spans, *second.evidence.spans]))[:_MAX_SPANS],
    )
    return first.model_copy(
        update={
            "evidence": evidence,
            "keys": _united(first.keys, second.keys),
            "support": max(len(evidence.trajectories), 1),
            "confidence": max(first.confidence, second.confidence),
        }
    )


def _united(first: MemoryKeys, second: MemoryKeys) -> MemoryKeys:
    """Return the keys of a lesson by which the requests of both find it: they say it alike, not ask alike."""
    known = first.texts().values()
    more = [text for text in (second.query, *second.more) if text and text not in known]
    return first.model_copy(update={"more": (*first.more, *more)[:_MAX_KEYS]})


def _joined(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*first, *second]))


def _cap(memories: Sequence[Memory], limit: int) -> list[Memory]:
    """Keep what is among the `limit` most confident of at least one trajectory that it rests on.

    Cases are counted apart: of what was done there is plenty, and it is surer than what a model says of it.
    """
    used: dict[tuple[str, bool], int] = {}
    kept = {memory.id for memory in memories if memory.kind in _OF_MANY_RUNS}
    for memory in sorted(memories, key=lambda m: -m.confidence):
        if memory.id in kept:
            continue
        sources = [(source, memory.kind == "case") for source in memory.evidence.trajectories]
        if sources and all(used.get(source, 0) >= limit for source in sources):
            continue
        kept.add(memory.id)
        for source in sources:
            used[source] = used.get(source, 0) + 1
    return [memory for memory in memories if memory.id in kept]
