"""run -> distill -> refine -> (synthesize ->) compile -> train -> evaluate -> promote -> place -> retire."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from agentkd import hookspecs
from agentkd.cycle.asking import drop_kept
from agentkd.cycle.candidate import sources_of
from agentkd.cycle.evaluation import arm_of, check_rivals, recall_settings
from agentkd.cycle.journal import Plan, journalled, open_plan
from agentkd.cycle.parts import FOLDERS, Parts
from agentkd.cycle.phases import (
    compile_phase,
    evaluate_phase,
    evidence,
    learnt_from,
    promote_phase,
    refine_phase,
    run_phase,
    synthesize_phase,
    train_phase,
)
from agentkd.cycle.placement import place_phase
from agentkd.cycle.report import make_report, write_report
from agentkd.cycle.retire import lacks_certificates, retire_phase
from agentkd.cycle.schedule import is_due
from agentkd.cycle.stage import StageResult, distill_stage
from agentkd.cycle.teach import objective_needs
from agentkd.cycle.training import decisive_settings, read_beside, told_by
from agentkd.errors import CeilingError, ConfigError
from agentkd.files import sweep
from agentkd.plugins import nearest
from agentkd.schema import CycleReport, Evaluation, PhaseReport, Verdict, is_held_out

__all__ = ["run_cycle"]

Do = Callable[[str, Any, Callable[[str], StageResult]], PhaseReport]
"""Does one phase of a cycle, or finds it done."""


def run_cycle(parts: Parts, *, recompile: bool = False) -> CycleReport:
    """Run one whole cycle, or finish the one that was cut off, and write its report.

    Args:
        parts: The workspace.
        recompile: Whether to begin with `compile`: from base, on what was not revoked.

    Returns:
        The report; `verdict` is None where there was nothing to compile. Where `parts.ceiling` was met,
        `stopped` says which: the cycle stays open, and the next call goes on with it.

    Raises ConfigError, before anything is done, for arms or splits that a later phase would stumble over,
    and LockedError where another process works on the memories.
    """
    _check_settings(parts)
    _ = parts.memory  # takes the index's lock: a second cycle must not touch the plan of the first
    plan = open_plan(parts, recompile=recompile)
    phases: list[PhaseReport] = []
    with parts.meter.on(plan.cycle_id):
        try:
            return _run_phases(parts, plan, phases)
        except CeilingError as ceiling:
            return _stop(parts, plan, phases, ceiling)


def _run_phases(parts: Parts, plan: Plan, phases: list[PhaseReport]) -> CycleReport:
    def do(name: str, inputs: Any, body: Any) -> PhaseReport:
        report = journalled(parts, plan, name, inputs, body)
        phases.append(report)
        return report

    reads = phase_settings(parts)
    learnt = evidence(parts, plan)
    if not plan.recompile:
        ran = do("run", reads["run"], lambda key: run_phase(parts, plan, key))
        distilled = do(
            "distill",
            [ran.key, reads["distill"], evidence(parts, plan)],
            lambda _: distill_stage(parts, learnt_from(parts, plan)),
        )
        pool = [distilled.key, reads["refine"]]
        refined = do("refine", [*pool, plan.day] if plan.day else pool, lambda _: refine_phase(parts))
        if not is_due(parts):
            return _finish_untrained(parts, plan, phases, reads, do)
        # a day that changed no memory is no reason to compile and train again
        learnt = refined.key if refined.output["edits"] else plan.key_of("refine", pool)
    if parts.settings.synthesize.synthesizers and not plan.recompile:
        wanted = [learnt, reads["synthesize"]]
        learnt = do("synthesize", wanted, lambda _: synthesize_phase(parts, plan)).key
    compiled = do("compile", [learnt, reads["compile"]], lambda _: compile_phase(parts, plan))
    judged = list(_candidates(parts, plan, compiled, reads, do)) if compiled.output["n_train"] else []
    if not judged:
        return _finish_untrained(parts, plan, phases, reads, do)
    keys = [phase.key for phase in judged]
    decided = do(
        "promote", [keys, reads["promote"], plan.switches], lambda _: promote_phase(parts, plan, judged)
    )
    verdict = Verdict.model_validate(decided.output["verdict"])
    rejected = [Verdict.model_validate(each) for each in decided.output["rejected"]]
    candidate = verdict.checkpoint
    evaluations = _evaluations(judged, candidate)
    placed = do(
        "place",
        [decided.key, reads["place"]],
        lambda _: place_phase(parts, plan, candidate, evaluations, verdict),
    )
    do(
        "retire",
        [placed.key, reads["retire"]],
        lambda key: retire_phase(parts, key, candidate, verdict, evaluations, plan.serving),
    )
    return _finish(parts, plan, phases, evaluations, verdict, rejected)


def _candidates(
    parts: Parts, plan: Plan, compiled: PhaseReport, reads: Mapping[str, Any], do: Do
) -> Iterator[PhaseReport]:
    """Train and evaluate every candidate; yield the phases `evaluate`."""
    for source in sources_of(parts, plan, compiled.output["dataset_id"]):
        trained = do(
            "train", [compiled.key, reads["train"], source], partial(train_phase, parts, source=source)
        )
        name = trained.output["checkpoint"]
        if name:
            body = partial(evaluate_phase, parts, plan, candidate=name)
            yield do("evaluate", [trained.key, reads["evaluate"]], body)


def _evaluations(judged: Sequence[PhaseReport], first: str) -> list[Evaluation]:
    """Return the evaluations of all candidates, those of the one that was decided on first."""
    ordered = sorted(judged, key=lambda phase: phase.output["checkpoint"] != first)
    return [Evaluation.model_validate(e) for phase in ordered for e in phase.output["evaluations"]]


def phase_settings(parts: Parts) -> dict[str, Any]:
    """Return what each phase reads of the settings: a change there means that it is done again."""
    settings = parts.settings
    train, trainer = decisive_settings(parts)
    trust = settings.trust  # decides what is approved, recalled, told to a teacher and trained on
    acting = [settings.agent, settings.models, settings.model, settings.suite, trust, *recall_settings(parts)]
    return {
        "run": [
            *acting,
            settings.roles.actor,
            settings.revoke.serving,
            settings.run.attempts,
            settings.run.retries,
            settings.compile.easy_tasks,
        ],
        "distill": [settings.distill, settings.distiller, settings.roles.distiller, settings.memory, trust],
        "refine": [
            settings.memory.refiners,
            settings.memory.trial_level,
            settings.refiner,
            *([settings.roles.teacher, settings.roles.distiller] if _redistils(parts) else []),
        ],
        "synthesize": [
            settings.synthesize,
            settings.synthesizer,
            settings.roles.teacher,
            settings.agent,
            settings.suite,
            trust,
        ],
        "compile": [
            settings.compile,
            settings.synthesize.max_share,
            settings.selector,
            sorted(objective_needs(parts)),
            settings.train.teacher,
            settings.train.max_tokens_per_row,
            settings.agent,  # of these two a cycle that recompiles has no other phase
            settings.memory.scope,
            trust,
        ],
        "train": [
            train.model_dump(exclude={"candidates"}),  # one more candidate trains no other again
            trainer,
            *read_beside(parts),
            *told_by(parts),
        ],
        "evaluate": [*acting, settings.evaluate, settings.evaluator, settings.gate.probes],
        "promote": [settings.gate, settings.revoke.max_rate, settings.revoke.probes],
        "place": [settings.place],
        "retire": [settings.retire],
    }


def _redistils(parts: Parts) -> bool:
    """Whether a teacher rewords memories: then it matters which model plays it."""
    return "redistil" in parts.settings.memory.refiners


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
        own = parts.settings.place.split
        for split in (cycle.split, evaluate.split, *evaluate.also, *([own] if own else ())):
            if split not in splits:
                raise ConfigError(
                    f"suite `{cycle.suite}` has no split `{split}`", hint=nearest(split, splits), split=split
                )
        if own in (cycle.split, evaluate.split):
            raise ConfigError(
                f"`place.split` is `{own}`, which is learnt from or decides what is promoted",
                hint="name a split of its own: what judges must not steer what is trained",
                key="place.split",
            )
        _check_held_out({"evaluate.split": [evaluate.split], "evaluate.also": evaluate.also,
                         "place.split": [own] if own else []})  # fmt: skip
        check_rivals(parts)


def _check_held_out(splits: Mapping[str, Sequence[str]]) -> None:
    """Refuse to measure on what the next cycle would learn from: the name decides what is held out."""
    for key, names in splits.items():
        for name in names:
            if not is_held_out(name):
                raise ConfigError(
                    f"`{key}` names split `{name}`, whose runs are learnt from",
                    hint="a split that is only measured on begins with `holdout` or `test`",
                    key=key,
                )


def _finish_untrained(
    parts: Parts, plan: Plan, phases: Sequence[PhaseReport], reads: Mapping[str, Any], do: Do
) -> CycleReport:
    """End a cycle without a candidate; what was promoted by hand gets its certificates all the same."""
    inputs = [plan.serving, reads["retire"]]
    if lacks_certificates(parts, plan.key_of("retire", inputs), plan.serving):
        do("retire", inputs, lambda key: retire_phase(parts, key, "", None, (), plan.serving))
    return _finish(parts, plan, phases, (), None)


def _finish(
    parts: Parts,
    plan: Plan,
    phases: Sequence[PhaseReport],
    evaluations: Sequence[Evaluation],
    verdict: Verdict | None,
    rejected: Sequence[Verdict] = (),
) -> CycleReport:
    sweep(*(parts.root / name for name in FOLDERS))
    drop_kept(parts, plan.cycle_id)
    report = make_report(parts, plan, phases, evaluations, verdict, rejected)
    with parts.ledger.transaction():  # one who lost the lease overwrites no report
        write_report(parts, report)
        parts.ledger.cycles.finish_cycle(report)
    parts.hooks.ask(hookspecs.after_cycle, report=report)
    return report


def _stop(parts: Parts, plan: Plan, phases: Sequence[PhaseReport], ceiling: CeilingError) -> CycleReport:
    """Write the report of a cycle that stays open; its last phase says how far it came."""
    cut_off = [phase for phase in parts.ledger.cycles.phases(plan.cycle_id) if phase.status == "stopped"]
    last = [phase for phase in cut_off[-1:] if phase.key not in {done.key for done in phases}]
    where = f"in `{last[0].name}`" if last else f"after `{phases[-1].name}`" if phases else "before `run`"
    report = make_report(parts, plan, [*phases, *last], (), None)
    report = report.model_copy(update={"stopped": f"stopped {where}: {ceiling.message}"})
    with parts.ledger.transaction():
        write_report(parts, report)
    parts.progress.say(f"{report.stopped}; the same command goes on from here")
    return report
