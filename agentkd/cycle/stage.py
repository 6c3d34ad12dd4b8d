"""The stages of learning as plain functions over the parts: each does its work and says what it did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentkd.cycle.asking import asking_kit
from agentkd.cycle.parts import ROUTED, Parts
from agentkd.cycle.placed import measured_places
from agentkd.cycle.retry import proven, retries_of
from agentkd.cycle.teach import objective_needs, writes_text
from agentkd.cycle.training import train_job
from agentkd.cycle.tutor import taught_job
from agentkd.errors import DataError, NotFoundError
from agentkd.protocols import Recaller, Suite
from agentkd.schema import (
    Checkpoint,
    Correction,
    DatasetCard,
    Hit,
    Memory,
    Place,
    Task,
    ToolSpec,
    Trajectory,
    now,
    origin_of,
    place_of,
)

if TYPE_CHECKING:
    from agentkd.agents import RunSummary

__all__ = [
    "StageResult",
    "checkpoint_name",
    "compile_stage",
    "corrections_of",
    "distill_stage",
    "run_stage",
    "tools_of",
    "train_stage",
]


@dataclass(frozen=True)
class StageResult:
    """What a stage did: one sentence, the ids and counts that later stages need, and its cost."""

    summary: str
    output: dict[str, Any]
    usage: dict[str, float] = field(default_factory=dict)
    settle: Callable[[], object] | None = None
    """What becomes true with the record of the phase, in one transaction: a phase that was cut off before
    meets the ledger as it was."""


def run_stage(
    parts: Parts,
    *,
    suite: Suite,
    tasks: Sequence[Task],
    run_id: str,
    model: str,
    uses_memory: bool,
    label: str,
    attempts: int = 1,
    has_trials: bool = True,
    recaller: Recaller | None = None,
) -> RunSummary:
    """Run an agent over tasks; finished tasks of the same `run_id` are not run again.

    Without trials, as for an arm of an evaluation, every task is tried once and sees what is recalled for it:
    by `recaller` where one is given, else by the workspace's memories. What serves at the beginning acts in
    all tasks, as the `run_id` says; where it is tainted it stands aside as for any agent.
    """
    from agentkd.agents import Recorder, run_tasks
    from agentkd.cycle.routing import who_stays

    held_out = any(task.is_held_out for task in tasks)
    agent = parts.agent(
        who_stays(parts, model),
        suite.environment,
        name=label,
        recaller=(recaller or parts.memory.before_run(run_id)) if uses_memory else None,
        recorder=Recorder(parts.ledger, parts.hooks),
        scope=parts.settings.memory.scope.of_suite(suite.name),
        changes={} if uses_memory else {"recall": "off"},
        has_trials=has_trials and not held_out,
        has_grader=True,
    )
    return run_tasks(
        agent,
        tasks,
        suite=suite,
        ledger=parts.ledger,
        hooks=parts.hooks,
        run_id=run_id,
        attempts=attempts,
        workers=parts.settings.run.workers,
        progress=parts.progress,
        keep_expected=not held_out,
        retries=retries_of(parts) if has_trials and not held_out else None,
        before_task=parts.ceiling.begin,
    )


def distill_stage(parts: Parts, trajectories: Sequence[Trajectory]) -> StageResult:
    """Distil trajectories and their corrections into memories and admit them."""
    from agentkd.distill import distill_report

    leaked = [t.id for t in trajectories if t.task.is_held_out]
    if leaked:
        raise DataError(f"trajectory `{leaked[0]}` belongs to a held-out split and is never distilled")
    gone = parts.ledger.revocations.trajectories()
    trajectories = [t for t in trajectories if t.task.is_lived and t.id not in gone]
    corrections = corrections_of(parts, trajectories)
    flat = [c for group in corrections.values() for c in group]
    kit = asking_kit(parts)
    distilled = distill_report(trajectories, flat, parts.distillers(), kit, parts.settings.distill)
    candidates = proven(distilled.memories, trajectories, flat)
    admissions = parts.memory.admit(candidates)
    counts: dict[str, int] = {}
    for admission in admissions:
        counts[admission.outcome] = counts.get(admission.outcome, 0) + 1
    n_waiting = sum(admission.waits for admission in admissions)
    why_failed = dict.fromkeys(a.reason for a in admissions if a.outcome == "failed")
    return StageResult(
        f"{len(trajectories)} trajectories and {len(flat)} corrections gave {len(candidates)} candidates: "
        + (", ".join(f"{n} {outcome}" for outcome, n in sorted(counts.items())) or "none")
        + (f"; {n_waiting} wait in quarantine (untrusted sources)" if n_waiting else "")
        + "".join(f"; {remark}" for remark in (*why_failed, *distilled.remarks)),
        {
            "candidates": len(candidates),
            "corrections": len(flat),
            "failures": len(distilled.failures),
            "left_out": distilled.n_left_out,
            "refused": len(distilled.rejected),
            "unproven": len(distilled.memories) - len(candidates),
            "waiting": n_waiting,
            **{f"refused: {reason}": n for reason, n in distilled.rejected_by_reason.items()},
            **distilled.counts,
            **counts,
        },
    )


def corrections_of(parts: Parts, trajectories: Sequence[Trajectory]) -> dict[str, list[Correction]]:
    """Return the corrections of each trajectory that has any, oldest first."""
    wanted = {t.id for t in trajectories}
    found: dict[str, list[Correction]] = {}
    for correction in parts.ledger.corrections.list():
        if correction.trajectory_id in wanted:
            found.setdefault(correction.trajectory_id, []).append(correction)
    return found


def compile_stage(
    parts: Parts,
    learnt: Sequence[Trajectory] | None = None,
    *,
    suite: str | None = None,
    split: str | None = None,
) -> DatasetCard:
    """Compile trajectories and memories into a dataset of training rows.

    Without a list of trajectories they are read from the ledger, a few at a time: those of a suite's split,
    and without a split those of all splits that are not held out. Rejected answers and a teacher view are
    made where an objective or selector asks for them, a teacher view also for a teacher that answers in its
    own words: it is the prompt that it is asked. A student answers everybody whom this workspace serves:
    what belongs to another tenant than that of `[memory] scope` is not compiled.
    """
    from agentkd.compiler import CompileInputs, LedgerTraces, ListedTraces, compile_dataset

    scope, read_at = parts.settings.memory.scope, now()
    memories = [memory for memory in parts.ledger.memories.list() if scope.may_teach(memory.scope)]
    learnt = None if learnt is None else [run for run in learnt if scope.may_teach(run.scope)]
    places = measured_places(parts)
    own = _own_lessons(memories, places)
    needs, selectors = objective_needs(parts), parts.selectors()
    stored = LedgerTraces(parts.ledger, suite=suite, split=split, scope=scope)
    inputs = CompileInputs(
        traces=stored if learnt is None else ListedTraces(learnt, corrections_of(parts, learnt)),
        memories=memories,
        recall=lambda trajectory: _hits_for(parts, trajectory, own),
        render=parts.memory.render,
        views=parts.views(),
        tools_of=tools_of(parts),
        max_synthetic=parts.settings.synthesize.max_share,
        tokenizer=parts.student_files.path,
        base_id=parts.student_files.base_id,
        teacher=parts.settings.train.teacher or "base",
        embed=parts.embedder().embed,
        forbidden=parts.ledger.revocations.forbidden(),
        revoked=parts.ledger.revocations.memories(),
        students=_student_names(parts),
        bases=frozenset({parts.settings.roles.student}),
        places=places,
        trust=parts.settings.trust,
        read_at=read_at,
    )
    return compile_dataset(
        inputs,
        settings=parts.settings.compile,
        selectors=selectors,
        need_teacher=any(need.startswith("teacher") for need in needs)
        or writes_text(parts.settings.train.teacher)
        or any(getattr(selector, "needs_teacher", False) for selector in selectors),
        need_rejected="rejected" in needs,
        hooks=parts.hooks,
        out_root=parts.root / "datasets",
        ledger=parts.ledger,
        progress=parts.progress,
        max_tokens=parts.settings.train.max_tokens_per_row,
    )


def _own_lessons(memories: Sequence[Memory], places: Mapping[str, Place]) -> dict[str, set[str]]:
    """Return the memories that rest on each trajectory, but for those that the student will be shown."""
    own: dict[str, set[str]] = {}
    for memory in memories:
        if place_of(memory, places) != "context":
            for trajectory_id in memory.evidence.trajectories:
                own.setdefault(trajectory_id, set()).add(memory.id)
    return own


def _hits_for(parts: Parts, trajectory: Trajectory, own: Mapping[str, set[str]]) -> Sequence[Hit]:
    """Recall for a trajectory's request, without lessons that rest on it or on what it was made from."""
    origin = origin_of(trajectory)
    sources = (trajectory.id, *(origin.seeds if origin else ()))
    scope = parts.settings.memory.scope.of_suite(trajectory.task.suite)
    return parts.memory.recall(
        trajectory.task.prompt, scope=scope, exclude={id_ for one in sources for id_ in own.get(one, ())}
    )


def _student_names(parts: Parts) -> frozenset[str]:
    """Return the names under which what serves now is recorded in trajectories."""
    source = parts.settings.roles.student
    if parts.settings.roles.actor == ROUTED:
        names = (*parts.ledger.checkpoints.promoted(), *parts.settings.models.routing.checkpoints)
        return frozenset({source, *(f"{source}@{name}" for name in names)})
    serving = parts.serving()
    return frozenset({f"{source}@{serving.name}" if serving else source})


def tools_of(parts: Parts) -> Callable[[Task], Sequence[ToolSpec]]:
    """Return a function that says which tools a task offers: its own, else those of its world."""
    cache: dict[str, Any] = {}

    def found(task: Task) -> Any:
        if task.tools or task.is_synthetic:
            return task.tools
        if task.suite not in parts.registry.names("suite"):
            return ()
        if task.suite not in cache:
            try:
                environment = parts.suite(task.suite).environment(task)
            except NotFoundError:  # recorded elsewhere: the suite does not know it
                return ()
            cache[task.suite] = tuple(environment.tools)
            environment.close()
        return cache[task.suite]

    return found


def checkpoint_name(parts: Parts, key: str) -> str:
    """Return the name under which the training with this key goes on, or the next free one."""
    known = [name for name in parts.ledger.checkpoints.names() if name.endswith(key[-8:])]
    folder = parts.root / "checkpoints"
    begun = [p.name.removesuffix(".partial") for p in folder.glob(f"student@*-{key[-8:]}*") if p.is_dir()]
    return [*known, *begun, f"student@{parts.ledger.checkpoints.next_number()}-{key[-8:]}"][0]


def train_stage(parts: Parts, dataset_id: str, name: str, init: str = "") -> Checkpoint:
    """Train a student on a dataset and register the checkpoint; a finished one is only read."""
    job = taught_job(parts, train_job(parts, dataset_id, str(parts.root / "checkpoints" / name), init))
    checkpoint = parts.trainer().train(job, parts.ceiling.watching(parts.progress))
    from agentkd.hf import registered_files

    files = registered_files(Path(job.output), checkpoint.files)
    told = {"base": parts.settings.roles.student, "parent": init, "files": files}
    checkpoint = checkpoint.model_copy(update=told)
    parts.ledger.checkpoints.add(checkpoint)
    return checkpoint
