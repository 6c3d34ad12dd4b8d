"""When to run a cycle, and when to compile and train within one: by counts, by measured gain, by budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from agentkd import hookspecs
from agentkd.cycle.journal import plan_phase
from agentkd.cycle.parts import Parts
from agentkd.cycle.placed import measured_places
from agentkd.schema import ADHOC, Memory, Value, lift_of, now, place_of, pooled_prior

__all__ = ["Due", "Learnt", "is_due", "learnt_since", "left_of_day", "when_due"]

_CHARS_PER_TOKEN = 4
_DAY = timedelta(days=1)


class Learnt(Value):
    """What the ledger holds that no training has seen, and what compiling would be worth."""

    n_new_memories: int = 0
    """Memories of the suite that may be compiled and are new, admitted or newly supported since its last
    compilation on the present base."""
    n_new_trajectories: int = 0
    """Trajectories that a cycle would distil, since the last finished cycle of the suite that distilled."""
    expected_gain: float = 0.0
    """Tokens per task that compiling would take out of the prompts, weighed by measured lift: the sum of
    lift x share of tasks that recall it x tokens, over memories in the context that may be compiled."""


class Due(Value):
    """Whether a cycle is due."""

    is_due: bool
    """Whether to run one now."""
    reason: str
    """One sentence that says why or why not."""
    recompiles: bool = False
    """Whether that one begins with `compile`: what serves is tainted and has to go."""
    learnt: Learnt = Learnt()
    """The figures."""


def is_due(parts: Parts) -> bool:
    """Whether enough was learnt to train on; the hook `is_compile_due` may decide otherwise.

    What the cycle that runs has distilled counts among what is new since an earlier one compiled. While a
    tainted student serves that none has tried to replace, nothing else is asked.
    """
    if _to_replace(parts):
        return True
    learnt = learnt_since(parts)
    decided = _asked(parts, learnt)
    return _is_enough(parts, learnt) if decided is None else decided


def when_due(parts: Parts) -> Due:
    """Say whether a cycle is due, without running anything or opening the index.

    A budget that is used up comes first, then a cycle that was cut off, then a tainted student that serves,
    then plugins, then the counts and the expected gain.
    """
    settings = parts.settings.cycle
    if over := _budget_met(parts):
        return Due(is_due=False, reason=over)
    unfinished = parts.ledger.cycles.unfinished()
    if unfinished is not None:
        return Due(is_due=True, reason=f"{unfinished.id} was cut off and goes on")
    if tainted := _to_replace(parts):
        reason = f"`{tainted}` serves and is tainted: one is trained without what was revoked"
        return Due(is_due=True, reason=reason, recompiles=True)
    if settings.suite and parts.ledger.cycles.newest_phase("run", settings.suite) is None:
        return Due(is_due=True, reason=f"no cycle has run on `{settings.suite}` yet")
    learnt = learnt_since(parts)
    figures = (
        f"{learnt.n_new_memories} of {settings.min_new_memories} new memories, {learnt.n_new_trajectories} "
        f"of {settings.due_trajectories} new trajectories, expected gain {learnt.expected_gain:.1f} of "
        f"{settings.min_gain:g} tokens per task"
    )
    decided = _asked(parts, learnt)
    if decided is not None:
        return Due(is_due=decided, reason=f"a plugin decides: {figures}", learnt=learnt)
    ready = _is_enough(parts, learnt) or learnt.n_new_trajectories >= settings.due_trajectories
    return Due(is_due=ready, reason=figures, learnt=learnt)


def learnt_since(parts: Parts) -> Learnt:
    """Count what is new since finished cycles of the suite compiled on the present base, and distilled."""
    cycle = parts.settings.cycle
    compiled, distilled = _looks(parts, "compile", of_base=True), _looks(parts, "distill")
    taught = [
        (memory, suites)
        for memory, suites in _suites_of(parts, _eligible(parts))
        if not (cycle.suite and suites) or cycle.suite in suites
    ]
    memories = [memory for memory, _ in taught]
    changed = parts.ledger.memories.standings(memory.id for memory in memories) if compiled else {}

    def is_new(memory: Memory, suites: frozenset[str]) -> bool:
        seen = [at for suite, at in compiled.items() if not (suite and suites) or suite in suites]
        standing = changed.get(memory.id)
        later = (standing.changed_at, standing.evidence_at) if standing else ()
        return not seen or any(at is not None and at > max(seen) for at in (memory.created_at, *later))

    return Learnt(
        n_new_memories=sum(is_new(memory, suites) for memory, suites in taught),
        n_new_trajectories=parts.ledger.trajectories.n_since(distilled, cycle.suite, cycle.split),
        expected_gain=_expected_gain(parts, memories),
    )


def left_of_day(parts: Parts) -> dict[str, float]:
    """Return what the budget of the last 24 hours leaves, by unit; units without a limit are left out."""
    limits = _limits_of_day(parts)
    spent = _spent(parts, now() - _DAY) if limits else {}
    return {unit: limit - spent[unit] for unit, limit in limits.items()}


def _looks(parts: Parts, phase: str, *, of_base: bool = False) -> dict[str, datetime]:
    """Return when the newest finished cycle of each suite looked at what there is for a phase.

    A cycle of a suite looks at that alone, one without a suite at all; `of_base` leaves out other bases. A
    phase that was found done began in an earlier cycle: what was there when its cycle began was seen too.
    """
    wanted, found = parts.settings.cycle.suite, dict[str, datetime]()
    for report in reversed(parts.ledger.cycles.list("done")):
        began = [each.started_at for each in report.phases if each.name == phase]
        if not began or report.suite in found or (wanted and report.suite not in ("", wanted)):
            continue
        plan = plan_phase(parts, report.id)
        if not of_base or (plan and plan.output.get("base_id") == parts.student_files.base_id):
            found[report.suite] = max([*began, *([plan.started_at] if plan else [])])
    return found


def _to_replace(parts: Parts) -> str:
    """Return the tainted student that serves, where no cycle has compiled since the last revocation.

    Where one has and the gate refused what came of it, a further one waits for something new to learn.
    """
    serving = parts.serving()
    if serving is None or serving.status != "tainted":
        return ""
    wanted = {
        "suite": parts.settings.cycle.suite,
        "base_id": serving.base_id,
        "revoked": parts.ledger.revocations.mark(),
    }
    for report in parts.ledger.cycles.list("done"):
        has_compiled = any(phase.name == "compile" for phase in report.phases)
        plan = plan_phase(parts, report.id) if has_compiled else None
        if plan and wanted.items() <= plan.output.items():
            return ""
    return serving.name


def _eligible(parts: Parts) -> list[Memory]:
    from agentkd.compiler import fault_of

    scope, settings = parts.settings.memory.scope, parts.settings.compile
    memories = [memory for memory in parts.ledger.memories.list() if scope.may_teach(memory.scope)]
    places = measured_places(parts)
    prior = pooled_prior(memory.utility for memory in memories)
    return [memory for memory in memories if not fault_of(memory, settings, prior, places)]


def _suites_of(parts: Parts, memories: Iterable[Memory]) -> list[tuple[Memory, frozenset[str]]]:
    """Return memories, each with the suites that its evidence or its scope is of; none where it is of all."""
    runs = parts.ledger.trajectories.keys()
    of_run = {id_: suite for suite, _, id_, _ in runs if suite != ADHOC}
    shared = ("", parts.settings.memory.scope.app)
    found = []
    for memory in memories:
        taught = {of_run[id_] for id_ in memory.evidence.trajectories if id_ in of_run}
        named = {memory.scope.app}.difference(shared)
        found.append((memory, frozenset(taught or named)))
    return found


def _expected_gain(parts: Parts, memories: Iterable[Memory]) -> float:
    """Return lift x share of tasks x tokens, over the memories that are still in the context."""
    from agentkd.memory.status import RECALLED

    counts = parts.ledger.trials.by()
    n_tasks = sum(each.n_shown + each.n_one + each.n_withheld for each in counts)
    if not n_tasks:
        return 0.0
    serving = parts.serving()
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


def _asked(parts: Parts, learnt: Learnt) -> bool | None:
    return parts.hooks.decide(
        hookspecs.is_compile_due,
        n_new_memories=learnt.n_new_memories,
        n_new_trajectories=learnt.n_new_trajectories,
        expected_gain=learnt.expected_gain,
    )


def _is_enough(parts: Parts, learnt: Learnt) -> bool:
    settings = parts.settings.cycle
    gains = learnt.n_new_memories > 0 and learnt.expected_gain >= settings.min_gain
    return learnt.n_new_memories >= settings.min_new_memories or gains


def _limits_of_day(parts: Parts) -> dict[str, float]:
    settings = parts.settings.cycle
    wanted = {"seconds": settings.day_seconds, "tokens": settings.day_tokens, "usd": settings.day_usd}
    return {unit: limit for unit, limit in wanted.items() if limit is not None}


def _budget_met(parts: Parts) -> str:
    """Return which budget of the last 24 hours is used up; empty where none is."""
    limits = _limits_of_day(parts)
    for unit, left in left_of_day(parts).items():
        if left <= 0:
            took, limit = limits[unit] - left, limits[unit]
            return f"the cycles of the last 24 hours took {took:g} of {limit:g} {unit}"
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
