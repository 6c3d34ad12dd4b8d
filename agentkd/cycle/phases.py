"""The phases of a cycle: each calls its stage and says in one sentence what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from agentkd import hookspecs
from agentkd.cycle.asking import asking_kit, kept_folder
from agentkd.cycle.candidate import Source, dataset_of
from agentkd.cycle.diagnose import diagnosed
from agentkd.cycle.evaluation import evaluate_stage
from agentkd.cycle.journal import Plan
from agentkd.cycle.judge import judge, probe_earlier
from agentkd.cycle.parts import Parts
from agentkd.cycle.stage import (
    StageResult,
    checkpoint_name,
    compile_stage,
    corrections_of,
    run_stage,
    train_stage,
)
from agentkd.cycle.synthesis import synthesize_stage
from agentkd.cycle.unlearnt import rival_of, unlearnt_check, with_check
from agentkd.cycle.worth import edits_said, lift_said
from agentkd.schema import Evaluation, PhaseReport, Trajectory, Usage, Verdict, content_id

__all__ = [
    "compile_phase",
    "evaluate_phase",
    "evidence",
    "learnt_from",
    "promote_phase",
    "refine_phase",
    "run_phase",
    "synthesize_phase",
    "train_phase",
]


def run_phase(parts: Parts, plan: Plan, key: str) -> StageResult:
    """Let the actor work on the split that is learnt from."""
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
    tried = _let_base_try(parts, plan, run_id)
    usage = sum((t.usage for t in parts.ledger.trajectories.list(run_id=run_id)), Usage(usd=0.0))
    shares = ", ".join(f"{n} to `{name}`" for name, n in summary.routes.items())
    again = f" ({shares})" if shares else ""
    again += f", {summary.rescued} of {summary.retried} more when tried again" if summary.retried else ""
    worth, figures = lift_said(parts, suite.name)
    return StageResult(
        f"{summary.succeeded} of {summary.n} tasks done{again}{worth}{tried}",
        {
            "run_id": run_id,
            **summary.model_dump(include={"n", "succeeded", "retried", "rescued", "routes"}),
            **figures,
        },
        usage.model_dump(include={"prompt_tokens", "completion_tokens", "usd"}, exclude_none=True),
    )


def _let_base_try(parts: Parts, plan: Plan, run_id: str) -> str:
    """Let the base try tasks without memory where no such run is there: what it does needs no training."""
    n = parts.settings.compile.easy_tasks
    if not n:
        return ""
    suite, base = parts.suite(plan.suite), parts.settings.roles.student
    runs = parts.ledger.trajectories.list(suite=suite.name, split=plan.split)
    known = {run.task.id for run in runs if run.model == base and run.outcome and not run.recalled}
    tasks = [task for task in suite.tasks(plan.split, plan.n, plan.seed) if task.id not in known][:n]
    if not tasks:
        return ""
    summary = run_stage(
        parts, suite=suite, tasks=tasks, run_id=content_id("run", run_id, "unaided"), model="base",
        uses_memory=False, label="base, unaided",
    )  # fmt: skip
    return f"; the base does {summary.succeeded} of {summary.n} unaided"


def learnt_from(parts: Parts, plan: Plan) -> Sequence[Trajectory]:
    """Return the finished runs of the split that is learnt from; without a suite, all but held-out."""
    if plan.suite:
        return parts.ledger.trajectories.list(suite=plan.suite, split=plan.split)
    return [t for t in parts.ledger.trajectories.list() if t.task.is_lived]


def evidence(parts: Parts, plan: Plan) -> str:
    """Return a hash of what there is to learn from: a new run or correction is distilled, whoever made it."""
    learnt = learnt_from(parts, plan)
    corrections = [c.id for group in corrections_of(parts, learnt).values() for c in group]
    return content_id("evd", sorted((t.id, t.success) for t in learnt), sorted(corrections))


def refine_phase(parts: Parts) -> StageResult:
    """Let the refiners edit the memories."""
    return StageResult(*edits_said(parts.memory.refine(parts.refiners(), asking_kit(parts))))


def synthesize_phase(parts: Parts, plan: Plan) -> StageResult:
    """Let a teacher write what the student lacks."""
    return synthesize_stage(parts, suite=plan.suite)


def compile_phase(parts: Parts, plan: Plan) -> StageResult:
    """Compile what was learnt into a dataset."""
    card = compile_stage(parts, suite=plan.suite or None, split=plan.split if plan.suite else None)
    left_out = "".join(f"; left out: {n} {reason}" for reason, n in sorted(card.dropped.items()))
    others = ", ".join(f"{n} {reason}" for reason, n in card.eligibility.items() if reason != "eligible")
    memories = f"{card.eligibility.get('eligible', 0)} memories eligible" + (f" ({others})" if others else "")
    return StageResult(
        f"{card.n_train} rows, {card.n_label_tokens} trained tokens; {memories}{left_out}",
        {"dataset_id": card.id, "n_train": card.n_train, "n_dev": card.n_dev,
         "n_label_tokens": card.n_label_tokens, "dropped": card.dropped, "eligibility": card.eligibility},
    )  # fmt: skip


def train_phase(parts: Parts, key: str, source: Source) -> StageResult:
    """Train one candidate of the cycle."""
    name = checkpoint_name(parts, key)
    card = dataset_of(parts, source)
    if not card.n_train:
        return StageResult(f"nothing new to train a {source.kind} candidate on", {"checkpoint": ""})
    checkpoint = train_stage(parts, card.id, name, source.init)
    loss = checkpoint.metrics.get("loss", float("nan"))
    start = f"on `{source.init}`" if source.init else "from the base"
    return StageResult(
        f"`{name}`, {source.kind} {start}: loss {loss:.3f} after {checkpoint.metrics.get('steps', 0):.0f} "
        f"steps on {card.n_train} rows",
        {"checkpoint": name, "kind": source.kind, "dataset_id": card.id, **checkpoint.metrics},
    )


def evaluate_phase(parts: Parts, plan: Plan, key: str, candidate: str) -> StageResult:
    """Run all arms on the held-out splits and the candidate on earlier cycles' tasks; ask the evaluators."""
    settings = parts.settings.evaluate
    if not plan.suite:
        return StageResult("no suite, so nothing to judge on", {"checkpoint": candidate, "evaluations": []})
    before = parts.meter.booked_usd
    suite = parts.suite(plan.suite)
    evaluations = [
        evaluate_stage(
            parts, suite=suite, split=split, n=settings.n, seed=plan.seed, candidate=candidate,
            serving=plan.serving,
        )
        for split in (settings.split, *settings.also)
    ]  # fmt: skip
    evaluations[0] = diagnosed(
        parts, plan.serving, evaluations[0], kept=(kept_folder(parts, plan.cycle_id), key)
    )
    earlier = probe_earlier(
        parts, candidate, plan.serving, suite=suite.name, splits=(settings.split,), seed=plan.seed
    )
    done = evaluations[0].arm("student").success
    return StageResult(
        f"`{candidate}` does {done.value:.3f} [{done.low:.3f}, {done.high:.3f}] of {evaluations[0].n} tasks",
        {
            "checkpoint": candidate,
            "evaluations": [e.model_dump(mode="json") for e in evaluations],
            "earlier": [e.model_dump(mode="json") for e in earlier],
        },
        {**_tokens_of([*evaluations, *earlier]), "usd": parts.meter.booked_usd - before},
    )


def _tokens_of(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    arms = [arm for evaluation in evaluations for arm in evaluation.arms]
    return {
        "prompt_tokens": sum(arm.prompt_tokens * arm.n for arm in arms),
        "completion_tokens": sum(arm.completion_tokens * arm.n for arm in arms),
    }


def promote_phase(parts: Parts, plan: Plan, judged: Sequence[PhaseReport]) -> StageResult:
    """Ask the gate about every candidate, and let the best one that passes serve."""
    found = [_Judged.of(parts, plan, phase, len(judged)) for phase in judged]
    best = max(found, key=lambda each: (each.verdict.promote, each.success))  # the first one at a tie
    if best.verdict.promote:
        parts.ledger.checkpoints.promote(best.name)
        parts.hooks.ask(hookspecs.after_promote, checkpoint=best.name, previous=plan.serving)
    others = [each.surpassed_by(best) for each in found if each is not best]
    serving = parts.ledger.checkpoints.serving()
    serves = serving.name if serving else "base"  # a person may have promoted one while the cycle was stopped
    for each in (*others, best):
        if not each.verdict.promote and not each.obstacle and each.name != serves:
            parts.ledger.checkpoints.set_status(each.name, "rejected")
    word = "promoted" if best.verdict.promote else "not promoted"
    return StageResult(
        f"`{best.name}` {word}" + "".join(f", `{each.name}` rejected" for each in others),
        {
            "checkpoint": best.name,
            "verdict": best.verdict.model_dump(mode="json"),
            "rejected": [each.verdict.model_dump(mode="json") for each in others],
        },
    )


@dataclass(frozen=True)
class _Judged:
    """A candidate with the gate's verdict."""

    name: str
    verdict: Verdict
    success: float
    obstacle: str

    @classmethod
    def of(cls, parts: Parts, plan: Plan, phase: PhaseReport, n_candidates: int) -> _Judged:
        """Judge the candidate of a phase `evaluate`."""
        from agentkd.evaluate import refuse

        name = str(phase.output["checkpoint"])
        evaluations = [Evaluation.model_validate(e) for e in phase.output["evaluations"]]
        success = evaluations[0].arm("student").success.value if evaluations else 0.0
        obstacle = _obstacle(parts, plan, name)
        if obstacle:
            verdict = refuse(name, plan.serving, obstacle)
        elif evaluations:
            earlier = [Evaluation.model_validate(e) for e in phase.output.get("earlier", ())]
            rival = rival_of(parts, plan.serving)
            verdict = judge(parts, name, rival, evaluations[0], earlier, n_candidates)
            verdict = with_check(verdict, unlearnt_check(parts, name))
        else:
            verdict = refuse(name, plan.serving, "there is no held-out split to judge on")
        return cls(name, verdict, success, obstacle)

    def surpassed_by(self, best: _Judged) -> _Judged:
        """Return the candidate as not promoted: where it passed too, another one did no worse."""
        if not self.verdict.promote:
            return self
        reason = (
            f"It passed the gate too, but `{best.name}` does {best.success:.3f} against {self.success:.3f}."
        )
        changes = {
            "promote": False,
            "reasons": (*self.verdict.reasons, reason),
            "flags": (*self.verdict.flags, "surpassed"),
        }
        return replace(self, verdict=self.verdict.model_copy(update=changes))


def _obstacle(parts: Parts, plan: Plan, candidate: str) -> str:
    """Return what happened since a candidate was trained that forbids to promote it; else nothing."""
    if parts.checkpoint(candidate).status == "tainted":
        return "something that it was trained on was revoked since"
    if candidate in parts.ledger.checkpoints.withdrawn():
        return "it was rolled back; `agentkd checkpoints promote` lets it serve again"
    found = parts.serving()
    serving = found.name if found else "base"
    if serving not in (plan.serving, candidate):
        return (
            f"it was not compared with `{serving}`, which has come to serve since the cycle began; "
            f"`agentkd checkpoints promote {candidate}` judges it against that"
        )
    return ""
