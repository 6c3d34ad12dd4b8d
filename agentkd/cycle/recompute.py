"""Recompute a report: every figure again from the facts in the ledger, and which of them differ.

Arms come from trajectories, comparisons from arms, the verdict from both; counts and lineage are those of the
time of the report. What was measured once (seconds, losses, tokens of a prompt) is read back where it was
first stored. The settings in force are those of now: after a change, what they decide may differ.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from agentkd.cycle.judge import judge
from agentkd.cycle.parts import Parts
from agentkd.cycle.report import MAX_ROUNDS, loss_curve, read_report
from agentkd.cycle.retire import Certificate, counts_of
from agentkd.cycle.transfer import transfer_matrix
from agentkd.cycle.unlearnt import unlearnt_check, with_check
from agentkd.errors import AgentkdError
from agentkd.schema import ArmResult, CycleReport, Evaluation, PhaseReport, Usage, Value, Verdict

__all__ = ["Figure", "Recomputation", "recompute"]

_DONE_AGAIN = ("run", "compile", "train", "evaluate", "retire")

_FORWARD = (".anchor_change", ".kl_to_base")
"""Figures of a forward pass over general texts, which is made again: another number of threads adds up in
another order."""
_NOISE = 1e-5


class Figure(Value):
    """One figure of a report that the ledger does not bear out."""

    name: str
    """Where it stands, such as `evaluations.0.arms.2.success.value`."""
    reported: Any = None
    """What the report says; None where it says nothing."""
    recomputed: Any = None
    """What the ledger says; None where it says nothing."""


class Recomputation(Value):
    """A report, figure by figure, against the ledger."""

    cycle_id: str
    """The cycle."""
    n: int
    """Figures that were computed again."""
    sections: dict[str, int]
    """Number of them by part of the report."""
    differing: tuple[Figure, ...] = ()
    """Those that come out another way."""
    left_out: tuple[str, ...] = ()
    """What could not be computed again, and why."""


def recompute(parts: Parts, number: int | None = None) -> Recomputation:
    """Compute every figure of a report again; the newest where no number is given.

    No task is run again; the gate measures general texts and exports anew. Raises NotFoundError without a
    report.
    """
    report = read_report(parts.root, number)
    work = _Work(parts, report)
    sections: dict[str, int] = {}
    differing: list[Figure] = []
    for name, reported, compute in work.sections():
        try:
            again = compute()
        except AgentkdError as error:
            differing.append(Figure(name=name, recomputed=f"cannot be computed again: {error.message}"))
            continue
        if again is None:
            continue
        figures = list(_compared(name, _plain(reported), _plain(again)))
        part = name.partition(".")[0]
        sections[part] = sections.get(part, 0) + len(figures)
        differing += [figure for figure, is_same in figures if not is_same]
    return Recomputation(
        cycle_id=report.id,
        n=sum(sections.values()),
        sections=sections,
        differing=tuple(differing),
        left_out=tuple(dict.fromkeys(work.left_out)),
    )


class _Work:
    """Computes the parts of one report again."""

    def __init__(self, parts: Parts, report: CycleReport) -> None:
        self.parts = parts
        self.report = report
        self.left_out: list[str] = []
        self._evaluations: list[Evaluation] | None = None
        own = {phase.name: phase for phase in parts.ledger.cycles.phases(report.id)}
        self._plan: Mapping[str, Any] = own["plan"].output if "plan" in own else {}

    def sections(self) -> Iterator[tuple[str, Any, Any]]:
        """Yield the name of each part, what the report says, and what computes it again."""
        report, ledger, at = self.report, self.parts.ledger, self.report.created_at
        seen: Counter[str] = Counter()
        for phase in report.phases:
            seen[phase.name] += 1
            name = f"phases.{phase.name}" + (f"-{seen[phase.name]}" if seen[phase.name] > 1 else "")
            yield name, phase, lambda p=phase: ledger.cycles.find_phase(p.key, p.name)
            if phase.name in _DONE_AGAIN and phase.status == "done":
                yield name, *self._derived(phase)
        for i, evaluation in enumerate(report.evaluations):
            yield f"evaluations.{i}", evaluation, lambda i=i: self.evaluations()[i]
        for i, earlier in enumerate(self._earlier()):
            yield f"earlier.{i}", earlier, lambda e=earlier: self.evaluation(e)
        if report.verdict is not None:
            yield "verdict", report.verdict, self.verdict
            decided = self._phase("promote")
            rejected = decided.output.get("rejected", ()) if decided is not None else ()
            yield "rejected", report.rejected, lambda: rejected
            yield "transfer", report.transfer, self.transfer
        placed = self._phase("place")
        yield "placements", report.placements, lambda: placed.output["placements"] if placed else ()
        rounds = ledger.corrections.rounds
        yield "corrections", report.corrections, lambda: rounds(report.suite or None, MAX_ROUNDS, at)
        yield "counts", report.counts, self.counts
        yield "loss_curve", report.loss_curve, lambda: loss_curve(self.parts.root, report.checkpoint)
        yield "serving", report.serving, self.serving

    def evaluations(self) -> list[Evaluation]:
        """Return the evaluations of the report, computed from their trajectories."""
        if self._evaluations is None:
            self._evaluations = [self.evaluation(evaluation) for evaluation in self.report.evaluations]
        return self._evaluations

    def evaluation(self, reported: Evaluation) -> Evaluation:
        """Return an evaluation with arms and comparisons computed from the trajectories."""
        from agentkd.evaluate import compare

        arms = {arm.name: self._arm(arm, reported) for arm in reported.arms}
        paired = tuple(
            compare(
                arms[pair.ours], arms[pair.other], bootstrap=reported.bootstrap,
                level=pair.difference.level, seed=reported.seed,
            )
            for pair in reported.paired
        )  # fmt: skip
        return reported.model_copy(update={"arms": tuple(arms.values()), "paired": paired})

    def _arm(self, arm: ArmResult, evaluation: Evaluation) -> ArmResult:
        from agentkd.evaluate import arm_result

        level = arm.success.level
        if not arm.run_id:
            return self._baseline(arm, evaluation)
        found = self.parts.ledger.trajectories.of_run(arm.run_id)
        known = {trajectory.task.id: trajectory.task for trajectory in found}
        tasks = [known[result.task_id] for result in arm.results if result.task_id in known]
        again = arm_result(arm.name, arm.model, arm.uses_memory, tasks, found, level=level)
        return again.model_copy(update={"run_id": arm.run_id})

    def _baseline(self, arm: ArmResult, evaluation: Evaluation) -> ArmResult:
        from agentkd.evaluate import baseline_result

        parts, plan = self.parts, self._plan
        if evaluation.suite not in parts.registry.names("suite") or not plan:
            self.left_out.append(f"baseline `{arm.name}`: suite `{evaluation.suite}` is not here")
            return arm
        suite = parts.suite(evaluation.suite)
        known = {task.id: task for task in suite.tasks(evaluation.split)}
        tasks = [known[result.task_id] for result in arm.results if result.task_id in known]
        train = suite.tasks(plan["split"], plan["n"], plan["seed"])
        for baseline in suite.baselines(train, parts):
            if baseline.name == arm.name:
                return baseline_result(baseline, suite, tasks, level=arm.success.level)
        self.left_out.append(f"baseline `{arm.name}`: the suite no longer offers it")
        return arm

    def _earlier(self) -> list[Evaluation]:
        judged = [phase.output for phase in self.report.phases if phase.name == "evaluate"]
        own = next((o for o in judged if o.get("checkpoint") == self.report.checkpoint), {})
        return [Evaluation.model_validate(e) for e in own.get("earlier", ())]

    def serving(self) -> str:
        """Return what served when the report was written."""
        name = self.parts.ledger.checkpoints.serving_at(self.report.created_at)
        is_other = name != "base" and self.parts.checkpoint(name).base_id != self.parts.student_files.base_id
        return "base" if is_other else name

    def transfer(self) -> Any:
        """Compute the backward-transfer matrix again."""
        report, earlier = self.report, [self.evaluation(e) for e in self._earlier()]
        return transfer_matrix(self.parts, report.checkpoint, report.number, self.evaluations(), earlier)

    def verdict(self) -> Verdict | None:
        """Ask the gate again, with what it could know then."""
        reported, report = self.report.verdict, self.report
        assert reported is not None
        decided = self._phase("promote")
        is_tainted = self.parts.checkpoint(reported.checkpoint).status == "tainted"
        if is_tainted and "unjudged" not in reported.flags:
            self.left_out.append("the gate's checks: the candidate is tainted since, so it is not exported")
        if is_tainted or "unjudged" in reported.flags or not report.evaluations:
            return None if decided is None else Verdict.model_validate(decided.output["verdict"])
        earlier = [self.evaluation(e) for e in self._earlier()]
        verdict = judge(
            self.parts, reported.checkpoint, reported.against, self.evaluations()[0], earlier,
            n_candidates=1 + len(report.rejected), before=report.number,
        )  # fmt: skip
        if "revoked_n" not in reported.numbers:
            return verdict
        if self._plan.get("revoked") != self.parts.ledger.revocations.mark():
            self.left_out.append("the check of what was revoked: more was revoked since")
            kept = {k: v for k, v in reported.numbers.items() if k.startswith("revoked_")}
            return reported.model_copy(update={"numbers": {**verdict.numbers, **kept}})
        return with_check(verdict, unlearnt_check(self.parts, reported.checkpoint, runs=False))

    def counts(self) -> dict[str, int]:
        """Count facts and lineage as they were when the report was written."""
        ledger, at = self.parts.ledger, self.report.created_at
        lineage = ledger.lineage.counts(self.report.checkpoint, at) if self.report.checkpoint else {}
        return {**ledger.counts(at), **{f"lineage: {kind}": n for kind, n in lineage.items()}}

    def _phase(self, name: str) -> PhaseReport | None:
        return next((phase for phase in self.report.phases if phase.name == name), None)

    def _derived(self, phase: PhaseReport) -> tuple[Any, Any]:
        """Return figures of a phase that rest on other facts, and what computes them again."""
        names = {
            "run": ("n", "succeeded"), "compile": ("n_train", "n_dev", "n_label_tokens"),
            "train": ("loss", "steps"), "evaluate": (),
            "retire": ("retired", "compiled", "failed", "without_probes", "as_whole", "tokens_saved"),
        }[phase.name]  # fmt: skip
        reported: dict[str, Any] = {name: phase.output[name] for name in names if name in phase.output}
        if phase.name in ("run", "evaluate"):
            tokens = ("prompt_tokens", "completion_tokens")
            reported |= {name: phase.usage[name] for name in tokens if name in phase.usage}

        def again() -> dict[str, Any]:
            found: dict[str, Any] = getattr(self, f"_again_{phase.name}")(phase)
            return {name: found.get(name) for name in reported}

        return reported, again

    def _again_run(self, phase: PhaseReport) -> dict[str, Any]:
        from agentkd.agents.retry import n_retries

        found = self.parts.ledger.trajectories.list(run_id=phase.output.get("run_id") or "-")
        first = [t for t in found if n_retries(t.attempt) == 0]
        usage = sum((t.usage for t in found), Usage())
        return {
            "n": len(first),
            "succeeded": sum(t.success for t in first),
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
        }

    def _again_compile(self, phase: PhaseReport) -> dict[str, Any]:
        dataset_id = phase.output["dataset_id"]
        rows = Counter(row.split for row in self.parts.ledger.datasets.rows(dataset_id))
        card = self.parts.ledger.datasets.get(dataset_id)
        return {"n_train": rows["train"], "n_dev": rows["dev"], "n_label_tokens": card.n_label_tokens}

    def _again_train(self, phase: PhaseReport) -> dict[str, Any]:
        name = phase.output["checkpoint"]
        return dict(self.parts.checkpoint(name).metrics) if name else {}

    def _again_evaluate(self, phase: PhaseReport) -> dict[str, Any]:
        stored = [*phase.output["evaluations"], *phase.output.get("earlier", ())]
        every = [self.evaluation(Evaluation.model_validate(each)) for each in stored]
        arms = [arm for evaluation in every for arm in evaluation.arms]
        return {
            "prompt_tokens": sum(arm.prompt_tokens * arm.n for arm in arms),
            "completion_tokens": sum(arm.completion_tokens * arm.n for arm in arms),
        }

    def _again_retire(self, phase: PhaseReport) -> dict[str, Any]:
        at, candidate = self.report.created_at, phase.output.get("checkpoint", self.report.checkpoint)
        last: dict[str, Certificate] = {}
        for event in self.parts.ledger.memories.events():
            if event.checkpoint == candidate and "certificate" in event.details and event.happened_at <= at:
                last[event.memory_id] = Certificate.model_validate(event.details["certificate"])
        before, after = (phase.output.get(name, ()) for name in ("tokens_before", "tokens_after"))
        saved = (sum(before) - sum(after)) / max(len(before), 1)
        counted = counts_of(list(last.values()))
        return {**{name: n for name, n in counted.items() if name in phase.output}, "tokens_saved": saved}


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    return value


def _compared(name: str, reported: Any, again: Any) -> Iterator[tuple[Figure, bool]]:
    """Yield every figure of a part with whether both sides agree on it; words count as well as numbers."""
    if isinstance(reported, dict) and isinstance(again, dict):
        for key in dict.fromkeys((*reported, *again)):
            yield from _compared(f"{name}.{key}", reported.get(key), again.get(key))
    elif isinstance(reported, list) and isinstance(again, list) and len(reported) == len(again):
        for at, (one, other) in enumerate(zip(reported, again, strict=True)):
            yield from _compared(f"{name}.{at}", one, other)
    else:
        yield Figure(name=name, reported=reported, recomputed=again), _is_same(name, reported, again)


def _is_same(name: str, one: Any, other: Any) -> bool:
    numbers, noise = (int, float), _NOISE if name.endswith(_FORWARD) else 1e-9
    if isinstance(one, numbers) and isinstance(other, numbers):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=noise) or (one != one and other != other)
    return bool(one == other)
