"""Reads the trajectories once, to know their groups and what is kept back before the first row is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from agentkd.compiler.conflict import without_overruled
from agentkd.compiler.correction import usable_corrections
from agentkd.compiler.eligibility import UNTRUSTED, Holdings
from agentkd.compiler.inputs import CompileInputs
from agentkd.compiler.negative import is_mere_failure, with_negatives
from agentkd.compiler.select import refuse_held_out
from agentkd.compiler.source import Trace, TraceKey, by_task
from agentkd.compiler.split import TaskGroups, TaskKey, choose_dev, task_key
from agentkd.compiler.synthetic import beyond_share, like_tasks, with_sources
from agentkd.compiler.turn import Turn, merge_turns, turns_of
from agentkd.config import CompileSettings
from agentkd.schema import REDACTED, RETRY_STRIDE, Task, Trajectory
from agentkd.trust import RunTrust, is_vouched, trust_of_run

__all__ = ["Plan", "make_plan", "turns_of_task"]

_MISLED = "said by a model that was shown a revoked memory"

Result = tuple[int, int]  # graded runs, and how many of them succeeded


@dataclass(frozen=True)
class Plan:
    """What must be known of all trajectories before one row is made: ids and hashes, no texts."""

    keys: Sequence[TraceKey]
    """Every trajectory, sorted by task."""
    groups: dict[TaskKey, str]
    """Near-duplicate cluster of each task."""
    dev: frozenset[str]
    """Groups that are kept back."""
    kept_back: frozenset[str]
    """Trajectories of these groups: train rows show no memory that rests on them."""
    skill: dict[str, Result]
    """Graded runs of the student, and how many succeeded, by group."""
    bare: dict[str, Result]
    """The same of the base where no memory was in its prompt."""
    left_out: frozenset[TaskKey] = frozenset()
    """Tasks that a teacher wrote and that are beyond their share of the turns."""


def turns_of_task(
    traces: Sequence[Trace],
    inputs: CompileInputs,
    holdings: Holdings,
    dropped: Counter[str],
    *,
    need_rejected: bool,
) -> list[Turn]:
    """Return what the traces of one task teach, equal turns merged; what is left out is counted."""
    turns: list[Turn] = []
    failed = []
    for trace in traces:
        trajectory = trace.trajectory
        if refusal := inputs.forbidden.get(trajectory.id) or holdings.refusal(trajectory):
            dropped[refusal] += 1
            continue
        usable = usable_corrections(trajectory, trace.corrections)
        if need_rejected and is_mere_failure(trajectory, len(usable)):
            refusal = _refused_failure(trajectory, inputs)
            if refusal:
                dropped[refusal] += 1
            else:
                failed.append(trajectory)
        else:
            said = turns_of(trajectory, trace.corrections, inputs.tools_of(trajectory.task), dropped)
            clean = _clean(list(said), trace, inputs, holdings, dropped)
            turns += with_sources(clean, trajectory)
    merged = without_overruled(merge_turns(turns, dropped), dropped)
    return with_negatives(merged, failed, inputs.tools_of, dropped) if failed else list(merged)


def _refused_failure(trajectory: Trajectory, inputs: CompileInputs) -> str:
    """Return why what a failed run said may not even be rejected, empty where it may."""
    if not inputs.revoked.isdisjoint(trajectory.recalled):
        return _MISLED
    return UNTRUSTED if inputs.trust.gate and not trust_of_run(trajectory, inputs.trust).is_clean else ""


def _clean(
    turns: Sequence[Turn], trace: Trace, inputs: CompileInputs, holdings: Holdings, dropped: Counter[str]
) -> Sequence[Turn]:
    """Return the turns of a run that rest on nothing revoked, secret or untrusted; the others are counted."""
    kept = [turn for turn in turns if inputs.revoked.isdisjoint(turn.recalled)]
    dropped[_MISLED] += len(turns) - len(kept)
    open_ = [turn for turn in kept if REDACTED not in turn.target.content]
    dropped["its target holds a redacted secret"] += len(kept) - len(open_)
    trust = trust_of_run(trace.trajectory, inputs.trust)
    if trust.is_clean or not inputs.trust.gate:
        return open_
    trusted = [turn for turn in open_ if _is_trusted(turn, trust, trace, holdings)]
    dropped[UNTRUSTED] += len(open_) - len(trusted)
    return trusted


def _is_trusted(turn: Turn, trust: RunTrust, trace: Trace, holdings: Holdings) -> bool:
    """Whether a target may be taught although untrusted words came into its run.

    A person or a grader answers for it, or a memory that was let in rests on it.
    """
    said = [c for c in trace.corrections if c.id in turn.corrections]
    return is_vouched(said) or holdings.is_proven(turn, is_verified=trust.is_verified)


def make_plan(
    inputs: CompileInputs, settings: CompileSettings, holdings: Holdings, *, need_rejected: bool
) -> Plan:
    """Read all trajectories, a few at a time; raises DataError for a held-out one."""
    keys = inputs.traces.keys()
    groups = TaskGroups(inputs.embed, settings.near_duplicate)
    n_turns: dict[TaskKey, int] = {}
    skill: dict[TaskKey, Result] = {}
    bare: dict[TaskKey, Result] = {}
    written: dict[TaskKey, datetime] = {}
    for traces in by_task(inputs.traces, keys):
        refuse_held_out(trace.trajectory for trace in traces)
        task = traces[0].trajectory.task
        key = task_key(task)
        turns = turns_of_task(traces, inputs, holdings, Counter(), need_rejected=need_rejected)
        if turns:
            n_turns[key] = len(turns)
        for request in _requests(traces):
            groups.add(request, key, like_tasks(request))
        if task.is_synthetic:
            written[key] = traces[0].trajectory.created_at
            continue
        graded = [trace.trajectory for trace in traces if trace.trajectory.outcome is not None]
        runs = [run for run in graded if run.attempt < RETRY_STRIDE]  # retries read what was wrong
        skill[key] = _result(run for run in runs if run.model in inputs.students)
        bare[key] = _result(run for run in runs if run.model in inputs.bases and not run.recalled)
    left_out = beyond_share(n_turns, written, inputs.max_synthetic)
    named = groups.finish() if keys else {}
    rows: Counter[str] = Counter()
    for key, n in n_turns.items():
        rows[named[key]] += 0 if key in left_out else n
    dev = choose_dev(rows, settings.dev_share)
    kept_back = frozenset(id_ for suite, task_id, id_ in keys if named.get((suite, task_id)) in dev)
    return Plan(keys, named, dev, kept_back, _by_group(skill, named), _by_group(bare, named), left_out)


def _requests(traces: Sequence[Trace]) -> Iterable[Task]:
    """Return a task in all its wordings: runs of one task need not have had the same request."""
    tasks = (trace.trajectory.task for trace in traces)
    return {(task.prompt, task.group, tuple(like_tasks(task))): task for task in tasks}.values()


def _result(runs: Iterable[Trajectory]) -> Result:
    """Return how many graded runs there are, and how many succeeded."""
    won = [run.success for run in runs]
    return len(won), sum(won)


def _by_group(results: Mapping[TaskKey, Result], named: Mapping[TaskKey, str]) -> dict[str, Result]:
    found: dict[str, Result] = {}
    for key, (n, wins) in results.items():
        if n:
            before = found.get(named[key], (0, 0))
            found[named[key]] = (before[0] + n, before[1] + wins)
    return found
