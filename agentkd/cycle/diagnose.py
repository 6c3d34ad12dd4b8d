"""Lets the evaluators look at a candidate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from agentkd.cycle.evaluation import arm_of, arm_run_id, with_facts
from agentkd.cycle.judge import trained_rows
from agentkd.cycle.parts import Parts
from agentkd.files import write_whole
from agentkd.protocols import Comparison, Evaluator
from agentkd.schema import Diagnosis, Evaluation, Example, Trajectory, content_id

__all__ = ["comparison_of", "diagnosed"]


def diagnosed(
    parts: Parts,
    serving: str,
    evaluation: Evaluation,
    names: Sequence[str] | None = None,
    *,
    kept: tuple[Path, str] | None = None,
) -> Evaluation:
    """Return an evaluation with what the evaluators say about its candidate; itself where none is asked.

    Args:
        parts: The workspace.
        serving: What serves now: `base` or a checkpoint.
        evaluation: All arms on the split that decides.
        names: Components of kind `evaluator`, asked in order; None takes `[evaluate] evaluators`.
        kept: Folder where each diagnosis is kept as soon as it is made, and the key of what is judged: one
            who was stopped between two evaluators goes on behind the last one.
    """
    wanted = parts.settings.evaluate.evaluators if names is None else names
    if not evaluation.checkpoint or not wanted:
        return evaluation
    evaluators = [cast(Evaluator, parts.build("evaluator", name)) for name in wanted]
    comparison = comparison_of(parts, serving, evaluation)
    found = []
    for evaluator in evaluators:
        file = kept[0] / f"{content_id('dia', kept[1], evaluator.name)}.json" if kept is not None else None
        if file is not None and file.is_file():
            found.append(Diagnosis.model_validate_json(file.read_bytes()))
            continue
        parts.ceiling.begin()
        parts.progress.say(f"evaluator {evaluator.name} ...")
        found.append(evaluator.evaluate(comparison, parts))
        if file is not None:
            write_whole(file, found[-1].model_dump_json())
    return evaluation.model_copy(update={"diagnoses": tuple(found)})


def comparison_of(parts: Parts, serving: str, evaluation: Evaluation) -> Comparison:
    """Return what an evaluator sees of the candidate of an evaluation."""
    return _Comparison(parts, evaluation.checkpoint, serving, evaluation)


@dataclass(frozen=True)
class _Comparison:
    """Implements `agentkd.protocols.Comparison` over a workspace."""

    parts: Parts
    candidate: str
    serving: str
    evaluation: Evaluation

    @property
    def base(self) -> Path:
        return self.parts.student_files.path

    @property
    def before(self) -> Path | None:
        return None if self.serving == "base" else self.parts.checkpoint_folder(self.serving)

    @property
    def after(self) -> Path:
        return self.parts.checkpoint_folder(self.candidate)

    def rows(self, split: str) -> Iterator[Example]:
        return trained_rows(self.parts, self.candidate, split)

    def trajectories(self, arm: str) -> Sequence[Trajectory]:
        judged = self.evaluation
        has_run = any(one.name == arm and one.model for one in judged.arms)
        found = arm_of(arm, self.candidate, self.serving) if has_run else None
        if found is None:
            return ()
        tasks = self.parts.suite(judged.suite).tasks(judged.split, judged.n, judged.seed)
        run_id = arm_run_id(self.parts, with_facts(self.parts, found), judged.suite, tasks, judged.seed)
        return self.parts.ledger.trajectories.of_run(run_id)
