"""When to run a cycle, and when to compile and train within one: by counts, by measured gain, by budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from agentkd import hookspecs
from agentkd.cycle.parts import Parts
from agentkd.cycle.placed import measured_places
from agentkd.schema import CycleReport, Memory, Value, lift_of, now, place_of, pooled_prior

__all__ = ["Due", "Learnt", "is_due", "learnt_since", "when_due"]

_CHARS_PER_TOKEN = 4
_DAY = timedelta(days=1)


class Learnt(Value):
    """What the ledger holds that no training has seen, and what compiling would be worth."""

    n_new_memories: int = 0
    """Memories that may be compiled and are new, admitted or newly supported since the last compilation."""
    n_new_trajectories: int = 0
    """Trajectories that a cycle would distil, since the last distillation."""
    expected_gain: float = 0.0
    """Tokens per task that compiling would take out of the prompts, weighed by measured lift: the sum of
    lift x share of tasks that recall it x tokens, over memories in the context that may be compiled."""


class Due(Value):
    """Whether a cycle is due."""

    is_due: bool
    """Whether to run one now."""
    reason: str
    """One sentence that says why or why not."""
    learnt: Learnt = Learnt()
    """The figures."""


def is_due(parts: Parts) -> bool:
    """Whether enough was learnt to train on; the hook `is_compile_due` may decide otherwise.

    What the cycle that runs has distilled counts among what is new since an earlier one compiled.
    """
    learnt = learnt_since(parts)
    decided = _asked(parts, learnt, parts.ledger.counts().get("trajectories", 0))
    return _is_enough(parts, learnt) if decided is None else decided


def when_due(parts: Parts) -> Due:
    """Say whether a cycle is due, without running anything or opening the index.

    A budget that is used up comes first, then a cycle that was cut off, then plugins, then the counts and
    the expected gain.
    """
    settings = parts.settings.cycle
    if over := _budget_met(parts):
        return Due(is_due=False, reason=over)
    unfinished = parts.ledger.cycles.unfinished()
    if unfinished is not None:
        return Due(is_due=True, reason=f"{unfinished.id} was cut off and goes on")
    if settings.suite and parts.ledger.cycles.newest_phase("run") is None:
        return Due(is_due=True, reason=f"no cycle has run on `{settings.suite}` yet")
    learnt = learnt_since(parts)
    figures = (
        f"{learnt.n_new_memories} of {settings.min_new_memories} new memories, {learnt.n_new_trajectories} "
        f"of {settings.due_trajectories} new trajectories, expected gain {learnt.expected_gain:.1f} of "
        f"{settings.min_gain:g} tokens per task"
    )
    decided = _asked(parts, learnt, learnt.n_new_trajectories)
    if decided is not None:
        return Due(is_due=decided, reason=f"a plugin decides: {figures}", learnt=learnt)
    ready = _is_enough(parts, learnt) or learnt.n_new_trajectories >= settings.due_trajectories
    return Due(is_due=ready, reason=figures, learnt=learnt)


def learnt_since(parts: Parts) -> Learnt:
    """Count what is new since the last compilation and distillation of a finished cycle."""
    cycle, done = parts.settings.cycle, parts.ledger.cycles.list("done")
    since, distilled = _looked_at(parts, done, "compile"), _looked_at(parts, done, "distill")
    memories = _eligible(parts)
    changed = parts.ledger.memories.standings(memory.id for memory in memories) if since else {}

    def is_new(memory: Memory) -> bool:
        standing = changed.get(memory.id)
        later = (standing.changed_at, standing.evidence_at) if standing else ()
        return since is None or any(at is not None and at > since for at in (memory.created_at, *later))

    return Learnt(
        n_new_memories=sum(map(is_new, memories)),
        n_new_trajectories=parts.ledger.trajectories.n_since(distilled, cycle.suite, cycle.split),
        expected_gain=_expected_gain(parts, memories),
    )


def _looked_at(parts: Parts, done: Sequence[CycleReport], phase: str) -> datetime | None:
    """Return when the newest finished cycle with a phase looked at what there is for it.

    A phase that was found done began in an earlier cycle: what was there when its cycle began was seen too.
    """
    for report in reversed(done):
        found = [each.started_at for each in report.phases if each.name == phase]
        if found:
            plans = [p.started_at for p in parts.ledger.cycles.phases(report.id) if p.name == "plan"]
            return max([*found, *plans])
    return None


def _eligible(parts: Parts) -> list[Memory]:
    from agentkd.compiler import fault_of

    scope, settings = parts.settings.memory.scope, parts.settings.compile
    memories = [memory for memory in parts.ledger.memories.list() if scope.may_teach(memory.scope)]
    places = measured_places(parts)
    prior = pooled_prior(memory.utility for memory in memories)
    return [memory for memory in memories if not fault_of(memory, settings, prior, places)]


def _expected_gain(parts: Parts, memories: Iterable[Memory]) -> float:
    """Return lift x share of tasks x tokens, over the memories that are still in the context."""
    from agentkd.memory.status import RECALLED

    counts = parts.ledger.trials.by()
    n_tasks = sum(each.n_shown + each.n_one + each.n_withheld for each in counts)
    if not n_tasks:
        return 0.0
    serving = parts.ledger.checkpoints.serving()
    status = parts.ledger.memories.status_for(serving.name if serving else "base")
    places, gain = measured_places(parts), 0.0
    memories = list(memories)
    prior = pooled_prior(memory.utility for memory in memories)
    for memory in memories:
        used = memory.utility
        is_there = status.get(memory.id) in RECALLED and place_of(memory, places) == "weights"
        if is_there and used.held_out:
            share = (used.recalls + used.held_out) / n_tasks
            tokens = len(memory.content) / _CHARS_PER_TOKEN
            gain += lift_of(used, prior).value * share * tokens
    return max(0.0, gain)


def _asked(parts: Parts, learnt: Learnt, n_trajectories: int) -> bool | None:
    return parts.hooks.decide(
        hookspecs.is_compile_due,
        n_new_memories=learnt.n_new_memories,
        n_new_trajectories=n_trajectories,
        expected_gain=learnt.expected_gain,
    )


def _is_enough(parts: Parts, learnt: Learnt) -> bool:
    settings = parts.settings.cycle
    gains = learnt.n_new_memories > 0 and learnt.expected_gain >= settings.min_gain
    return learnt.n_new_memories >= settings.min_new_memories or gains


def _budget_met(parts: Parts) -> str:
    """Return which budget of the last 24 hours is used up; empty where none is."""
    settings = parts.settings.cycle
    wanted = {"seconds": settings.day_seconds, "tokens": settings.day_tokens, "usd": settings.day_usd}
    if all(limit is None for limit in wanted.values()):
        return ""
    spent = _spent(parts, now() - _DAY)
    for unit, limit in wanted.items():
        if limit is not None and spent[unit] >= limit:
            return f"the cycles of the last 24 hours took {spent[unit]:g} of {limit:g} {unit}"
    return ""


def _spent(parts: Parts, since: datetime) -> Mapping[str, float]:
    """Return what all cycles took, by the cost book: it knows cut-off phases and every role."""
    booked = parts.ledger.calls.total(since=since, of_cycles=True)
    phases = parts.ledger.cycles.phases_since(since)
    return {
        "seconds": sum(phase.seconds + phase.earlier_seconds for phase in phases),
        "tokens": booked.prompt_tokens + booked.completion_tokens,
        "usd": booked.usd,
    }
