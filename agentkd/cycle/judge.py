"""Gathers the evidence on a candidate, and asks the gate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from agentkd.cycle.evaluation import evaluate_stage
from agentkd.cycle.export import check_export
from agentkd.cycle.looks import look_number
from agentkd.cycle.parts import Parts
from agentkd.cycle.replay import ancestor_datasets
from agentkd.cycle.row_audit import audit_rows
from agentkd.cycle.transfer import kept_cells, transfer_cells
from agentkd.errors import DataError, NotFoundError
from agentkd.schema import Evaluation, Example, Verdict

if TYPE_CHECKING:
    from agentkd.evaluate import Contamination, RowAudit
    from agentkd.hf import Anchors

__all__ = ["judge", "probe_earlier", "trained_rows"]


def judge(
    parts: Parts,
    candidate: str,
    serving: str,
    evaluation: Evaluation,
    earlier: Sequence[Evaluation] = (),
    n_candidates: int = 1,
    before: int | None = None,
) -> Verdict:
    """Decide on a candidate with all that is known of it; promotes nothing.

    Args:
        parts: The workspace.
        candidate: Name of the checkpoint.
        serving: What serves now: `base` or a checkpoint.
        evaluation: All arms on the split that decides, with what the evaluators found.
        earlier: Candidate and what serves on the tasks of earlier cycles (`probe_earlier`).
        n_candidates: Candidates of the same cycle, which share the level of being better.
        before: Number of a cycle: what came of it and of later ones does not count.
    """
    from agentkd.evaluate import Evidence, find_hacking, gate, read_course, without_tasks

    found = _contamination(parts, candidate, evaluation)
    clean = without_tasks(evaluation, found.tasks, parts.settings.evaluate) if found else evaluation
    course = read_course(parts.checkpoint_folder(candidate) / "metrics.jsonl")
    evidence = Evidence(
        look=look_number(parts, evaluation.suite, candidate, before),
        n_candidates=n_candidates,
        contamination=found,
        anchors=_anchors(parts, candidate),
        earlier=tuple(earlier),
        transfer=kept_cells(parts, transfer_cells(parts, candidate, [clean, *earlier], before), before),
        dev_losses=tuple(loss for _, loss in course.golden),
        hacking=find_hacking(course) if course.proxy else None,
        rows=_row_audit(parts, candidate),
        exports=tuple(check_export(parts, candidate, shape) for shape in parts.settings.gate.exports),
        diagnoses=evaluation.diagnoses,
    )
    return gate(clean, parts.settings.gate, serving, parts.hooks, evidence)


def probe_earlier(
    parts: Parts, candidate: str, serving: str, *, suite: str, splits: Sequence[str], seed: int
) -> list[Evaluation]:
    """Run candidate and what serves on the held-out tasks of every earlier suite that taught something.

    They are tasks that the earlier cycle was judged on itself: one whose student was promoted, and one whose
    rows are replayed, for a refused student's rows may be what was wrong with it. The suite and split that
    decide at present are left out where they have the seed: they are compared anyway.
    """
    n, known = parts.settings.gate.probes, {(suite, split, seed) for split in splits}
    found = []
    replayed = parts.ledger.datasets.get(parts.checkpoint(candidate).dataset_id).settings.get("replayed", ())
    for report in parts.ledger.cycles.list("done"):
        is_promoted = report.verdict is not None and report.verdict.promote
        if not n or not (is_promoted or report.dataset_id in replayed):
            continue
        for held in report.evaluations[:1]:
            place = (held.suite, held.split, held.seed)
            if place in known or held.suite not in parts.registry.names("suite"):
                continue
            known.add(place)
            found.append(
                evaluate_stage(
                    parts, suite=parts.suite(held.suite), split=held.split, n=min(n, held.n), seed=held.seed,
                    candidate=candidate, serving=serving, arms=("student", "serving", "base"),
                )
            )  # fmt: skip
    return found


def _contamination(parts: Parts, candidate: str, evaluation: Evaluation) -> Contamination | None:
    """Look for the evaluation's tasks in the rows that the candidate and its ancestors were trained on."""
    from agentkd.evaluate import find_leaks

    settings = parts.settings.gate
    if settings.contamination == "off" or not evaluation.arms:
        return None
    wanted = {result.task_id for result in evaluation.arms[0].results}
    tasks = parts.suite(evaluation.suite).tasks(evaluation.split)
    prompts = {task.id: task.prompt for task in tasks if task.id in wanted}

    def rows() -> Iterator[tuple[str, list[str]]]:
        for row in trained_rows(parts, candidate):
            yield row.id, [m.content for m in (*row.student_view, *row.teacher_view, row.target)]

    return find_leaks(prompts, rows, near=settings.near_copy)


def trained_rows(parts: Parts, candidate: str, split: str = "train") -> Iterator[Example]:
    """Yield the rows that a candidate and its ancestors were trained on, or those kept back (`dev`).

    Raises DataError where rows that it was trained on are gone: nothing can be said about those.
    """
    from agentkd.compiler.write import read_examples

    for dataset_id in ancestor_datasets(parts, candidate):
        file = parts.root / "datasets" / dataset_id / f"{split}.jsonl"
        if file.is_file():
            yield from read_examples(file)
        elif split == "train" and _n_trained(parts, dataset_id):
            raise DataError(
                f"`{candidate}` was trained on `{file}`, which is gone: it cannot be judged",
                hint="restore that folder from a backup, or train a new student",
                path=str(file),
            )


def _n_trained(parts: Parts, dataset_id: str) -> int:
    """Return how many rows of a dataset are trained on; 0 for a student from elsewhere."""
    try:
        return parts.ledger.datasets.get(dataset_id).n_train
    except NotFoundError:
        return 0


def _row_audit(parts: Parts, candidate: str) -> RowAudit | None:
    if not parts.settings.gate.row_checks:
        return None
    return audit_rows(parts, trained_rows(parts, candidate))


def _anchors(parts: Parts, candidate: str) -> Anchors | None:
    from agentkd.hf import measure_anchors

    if not parts.settings.gate.anchors:
        return None
    return measure_anchors(parts.student_files.path, parts.checkpoint_folder(candidate))
