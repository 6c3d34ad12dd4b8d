"""The loop: run -> distill -> refine -> compile -> train -> evaluate -> promote -> retire."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentkd import hookspecs
from agentkd.cycle.journal import Plan, journalled, open_plan
from agentkd.cycle.judge import judge, probe_earlier
from agentkd.cycle.parts import Parts
from agentkd.cycle.report import make_report, write_report
from agentkd.cycle.stage import (
    StageResult,
    arm_of,
    checkpoint_name,
    compile_stage,
    corrections_of,
    distill_stage,
    evaluate_stage,
    objective_needs,
    recall_settings,
    run_stage,
    train_stage,
)
from agentkd.cycle.worth import edits_said, lift_said
from agentkd.errors import ConfigError
from agentkd.plugins import nearest
from agentkd.schema import (
    CycleReport,
    Evaluation,
    MemoryStatus,
    PhaseReport,
    Trajectory,
    Verdict,
    content_id,
)

__all__ = ["is_due", "run_cycle"]


def run_cycle(parts: Parts) -> CycleReport:
    """Run one whole cycle, or finish the one that was cut off, and write its report.

    Returns:
        The report; `verdict` is None where there was nothing to compile.

    Raises ConfigError, before anything is done, for arms or splits that a later phase would stumble over,
    and LockedError where another process works on the memories.
    """
    _check_settings(parts)
    _ = parts.memory  # takes the index's lock: a second cycle must not touch the plan of the first
    plan = open_plan(parts)
    phases: list[PhaseReport] = []
    evaluations: list[Evaluation] = []
    verdict: Verdict | None = None

    def do(name: str, inputs: Any, body: Any) -> PhaseReport:
        report = journalled(parts, plan, name, inputs, body)
        phases.append(report)
        return report

    reads = phase_settings(parts)
    ran = do("run", reads["run"], lambda key: _run(parts, plan, key))
    distilled = do(
        "distill",
        [ran.key, reads["distill"], _evidence(parts, plan)],
        lambda _: distill_stage(parts, _learnt_from(parts, plan)),
    )
    refined = do("refine", [distilled.key, reads["refine"]], lambda _: _refine(parts))
    if not is_due(parts, distilled):
        return _finish(parts, plan, phases, evaluations, None)
    compiled = do("compile", [refined.key, reads["compile"]], lambda _: _compile(parts, plan))
    if compiled.output["n_train"]:
        trained = do("train", [compiled.key, reads["train"]], lambda key: _train(parts, key, compiled))
        candidate = trained.output["checkpoint"]
        judged = do("evaluate", [trained.key, reads["evaluate"]], lambda _: _evaluate(parts, plan, candidate))
        evaluations = [Evaluation.model_validate(e) for e in judged.output["evaluations"]]
        decided = do(
            "promote",
            [judged.key, reads["promote"], plan.switches],
            lambda _: _promote(parts, plan, candidate, evaluations, judged.output.get("earlier", ())),
        )
        verdict = Verdict.model_validate(decided.output["verdict"])
        do("retire", decided.key, lambda _: _retire(parts, candidate, verdict, evaluations))
    return _finish(parts, plan, phases, evaluations, verdict)


def phase_settings(parts: Parts) -> dict[str, Any]:
    """Return what each phase reads of the settings: a change there means that it is done again."""
    settings = parts.settings
    acting = [settings.agent, settings.models, settings.model, settings.suite, *recall_settings(parts)]
    return {
        "run": [*acting, settings.roles.actor, settings.run.attempts, settings.run.retries],
        "distill": [settings.distill, settings.distiller, settings.roles.distiller, settings.memory],
        "refine": [settings.memory.refiners, settings.memory.trial_level, settings.refiner],
        "compile": [
            settings.compile,
            settings.selector,
            sorted(objective_needs(parts)),
            settings.train.teacher,
            settings.train.max_tokens_per_row,
        ],
        "train": [settings.train, settings.trainer, _anchor_texts(parts)],
        "evaluate": [*acting, settings.evaluate, settings.gate.probes],
        "promote": [settings.gate],
    }


def _anchor_texts(parts: Parts) -> str:
    """Return a hash of the anchor texts of one's own, which may change under the same name."""
    from agentkd.hf import file_sha256

    path = parts.settings.train.anchor.path
    file = Path(path).expanduser()
    return file_sha256(file) if path and file.is_file() else ""


def _check_settings(parts: Parts) -> None:
    cycle, evaluate = parts.settings.cycle, parts.settings.evaluate
    for name in evaluate.arms:
        arm_of(name, "candidate", "base")
    if "student" not in evaluate.arms:
        raise ConfigError(
            "`evaluate.arms` lacks `student`, the arm that the gate judges", key="evaluate.arms"
        )
    if cycle.suite:
        splits = parts.suite(cycle.suite).splits()
        for split in (cycle.split, evaluate.split, *evaluate.also):
            if split not in splits:
                raise ConfigError(
                    f"suite `{cycle.suite}` has no split `{split}`", hint=nearest(split, splits), split=split
                )


def _run(parts: Parts, plan: Plan, key: str) -> StageResult:
    if not plan.suite:
        return StageResult("no suite is set: learning from what the ledger holds", {"run_id": ""})
    suite = parts.suite(plan.suite)
    run_id = content_id("run", key)
    summary = run_stage(
        parts,
        suite=suite,
        tasks=suite.tasks(plan.split, plan.n, plan.seed),
        run_id=run_id,
        model=parts.settings.roles.actor,
        uses_memory=parts.settings.agent.recall != "off",
        label="run",
        attempts=parts.settings.run.attempts,
    )
    usage = summary.usage
    again = f", {summary.rescued} of {summary.retried} more when tried again" if summary.retried else ""
    worth, figures = lift_said(parts, suite.name)
    return StageResult(
        f"{summary.succeeded} of {summary.n} tasks done{again}{worth}",
        {"run_id": run_id, **summary.model_dump(include={"n", "succeeded", "retried", "rescued"}), **figures},
        usage.model_dump(include={"prompt_tokens", "completion_tokens", "usd"}, exclude_none=True),
    )


def _learnt_from(parts: Parts, plan: Plan) -> Sequence[Trajectory]:
    """Return the finished runs of the split that is learnt from; without a suite, all but held-out."""
    if plan.suite:
        return parts.ledger.trajectories.list(suite=plan.suite, split=plan.split)
    return [t for t in parts.ledger.trajectories.list() if not t.task.is_held_out]


def _evidence(parts: Parts, plan: Plan) -> str:
    """Return a hash of what there is to learn from: a new run or correction is distilled, whoever made it."""
    learnt = _learnt_from(parts, plan)
    corrections = [c.id for group in corrections_of(parts, learnt).values() for c in group]
    return content_id("evd", sorted((t.id, t.success) for t in learnt), sorted(corrections))


def _refine(parts: Parts) -> StageResult:
    return StageResult(*edits_said(parts.memory.refine(parts.refiners(), parts)))


def is_due(parts: Parts, distilled: PhaseReport) -> bool:
    """Whether enough was learnt to train on; the hook `is_compile_due` may decide otherwise."""
    stored = distilled.output.get("stored", 0) + distilled.output.get("merged", 0)
    decided = parts.hooks.decide(
        hookspecs.is_compile_due,
        n_new_memories=stored,
        n_new_trajectories=parts.ledger.counts().get("trajectories", 0),
    )
    return stored >= parts.settings.cycle.min_new_memories if decided is None else decided


def _compile(parts: Parts, plan: Plan) -> StageResult:
    card = compile_stage(parts, suite=plan.suite or None, split=plan.split if plan.suite else None)
    left_out = "".join(f"; left out: {n} {reason}" for reason, n in sorted(card.dropped.items()))
    return StageResult(
        f"{card.n_train} rows, {card.n_label_tokens} trained tokens{left_out}",
        {"dataset_id": card.id, "n_train": card.n_train, "n_dev": card.n_dev,
         "n_label_tokens": card.n_label_tokens, "dropped": card.dropped},
    )  # fmt: skip


def _train(parts: Parts, key: str, compiled: PhaseReport) -> StageResult:
    name = checkpoint_name(parts, key)
    checkpoint = train_stage(parts, compiled.output["dataset_id"], name)
    loss = checkpoint.metrics.get("loss", float("nan"))
    return StageResult(
        f"`{name}`: loss {loss:.3f} after {checkpoint.metrics.get('steps', 0):.0f} steps",
        {"checkpoint": name, **checkpoint.metrics},
    )


def _evaluate(parts: Parts, plan: Plan, candidate: str) -> StageResult:
    settings = parts.settings.evaluate
    if not plan.suite:
        return StageResult("no suite, so nothing to judge on", {"evaluations": []})
    before = parts.spent_usd
    suite = parts.suite(plan.suite)
    evaluations = [
        evaluate_stage(
            parts, suite=suite, split=split, n=settings.n, seed=plan.seed, candidate=candidate,
            serving=plan.serving,
        )
        for split in (settings.split, *settings.also)
    ]  # fmt: skip
    splits = (settings.split, *settings.also)
    earlier = probe_earlier(parts, candidate, plan.serving, suite=suite.name, splits=splits, seed=plan.seed)
    done = evaluations[0].arm("student").success
    return StageResult(
        f"student does {done.value:.3f} [{done.low:.3f}, {done.high:.3f}] of {evaluations[0].n} tasks",
        {
            "evaluations": [e.model_dump(mode="json") for e in evaluations],
            "earlier": [e.model_dump(mode="json") for e in earlier],
        },
        {**_tokens_of([*evaluations, *earlier]), "usd": parts.spent_usd - before},
    )


def _tokens_of(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    arms = [arm for evaluation in evaluations for arm in evaluation.arms]
    return {
        "prompt_tokens": sum(arm.prompt_tokens * arm.n for arm in arms),
        "completion_tokens": sum(arm.completion_tokens * arm.n for arm in arms),
    }


def _promote(
    parts: Parts, plan: Plan, candidate: str, evaluations: Sequence[Evaluation], probes: Sequence[Any]
) -> StageResult:
    from agentkd.evaluate import refuse

    obstacle = _obstacle(parts, candidate)
    if obstacle:
        verdict = refuse(candidate, plan.serving, obstacle)
    elif evaluations:
        earlier = [Evaluation.model_validate(probe) for probe in probes]
        verdict = judge(parts, candidate, plan.serving, evaluations[0], earlier)
    else:
        verdict = refuse(candidate, plan.serving, "there is no held-out split to judge on")
    if verdict.promote:
        parts.ledger.checkpoints.promote(candidate)
        parts.hooks.ask(hookspecs.after_promote, checkpoint=candidate, previous=plan.serving)
    elif not obstacle:
        parts.ledger.checkpoints.set_status(candidate, "rejected")
    word = "promoted" if verdict.promote else "not promoted"
    return StageResult(f"`{candidate}` {word}", {"verdict": verdict.model_dump(mode="json")})


def _obstacle(parts: Parts, candidate: str) -> str:
    """Return what happened to a candidate since it was trained that forbids to promote it; else nothing."""
    if parts.checkpoint(candidate).status == "tainted":
        return "a memory that it was trained on was revoked since"
    events = [event for event in parts.ledger.checkpoints.history() if event.name == candidate]
    if events and events[-1].action == "rollback":
        return "it was rolled back; `agentkd checkpoints promote` lets it serve again"
    return ""


def _retire(parts: Parts, candidate: str, verdict: Verdict, evaluations: Sequence[Evaluation]) -> StageResult:
    """Mark what the weights now hold, and drop it from the context where the student does not need it."""
    if not verdict.promote:
        return StageResult("nothing was promoted", {"compiled": 0, "retired": 0})
    checkpoint = parts.checkpoint(candidate)
    rows = parts.ledger.datasets.rows(checkpoint.dataset_id)
    ids = dict.fromkeys(memory for row in rows for memory in row.provenance.memories)
    memories = parts.ledger.memories.get_many(ids)
    needless = _memory_is_needless(evaluations[0])
    counts = {"compiled": 0, "retired": 0, "kept": 0}
    for memory in memories:
        status: MemoryStatus = "compiled"
        if needless:
            refusals = parts.hooks.refusals(hookspecs.retire_memory, memory=memory, checkpoint=candidate)
            status = "compiled" if refusals else "retired"
            counts["kept"] += bool(refusals)
        parts.ledger.memories.set_status(
            memory.id, status, f"in the weights of `{candidate}`", checkpoint=candidate
        )
        counts[status] += 1
    return StageResult(
        f"{counts['compiled']} memories compiled, {counts['retired']} out of the context of `{candidate}`",
        dict(counts),
    )


def _memory_is_needless(evaluation: Evaluation) -> bool:
    """Whether the student without memory does at least as well as with it (paired, point estimate)."""
    for paired in evaluation.paired:
        if paired.ours == "student" and paired.other == "student + memory":
            return paired.difference.value >= 0
    return False


def _finish(
    parts: Parts,
    plan: Plan,
    phases: Sequence[PhaseReport],
    evaluations: Sequence[Evaluation],
    verdict: Verdict | None,
) -> CycleReport:
    report = make_report(parts, plan, phases, evaluations, verdict)
    write_report(parts, report)
    parts.ledger.cycles.finish_cycle(report)
    parts.hooks.ask(hookspecs.after_cycle, report=report)
    return report
