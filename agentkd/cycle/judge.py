"""Gathers the evidence on a candidate, and asks the gate."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from agentkd.cycle.evaluation import evaluate_stage
from agentkd.cycle.parts import Parts
from agentkd.schema import Evaluation, Verdict

if TYPE_CHECKING:
    from agentkd.evaluate import Contamination
    from agentkd.hf import Anchors

__all__ = ["judge", "look_number", "probe_earlier"]


def judge(
    parts: Parts, candidate: str, serving: str, evaluation: Evaluation, earlier: Sequence[Evaluation] = ()
) -> Verdict:
    """Decide on a candidate with all that is known of it; promotes nothing.

    Args:
        parts: The workspace.
        candidate: Name of the checkpoint.
        serving: What serves now: `base` or a checkpoint.
        evaluation: All arms on the split that decides.
        earlier: Candidate and what serves on the tasks of earlier cycles (`probe_earlier`).
    """
    from agentkd.evaluate import Evidence, gate, without_tasks

    found = _contamination(parts, candidate, evaluation)
    clean = without_tasks(evaluation, found.tasks, parts.settings.evaluate) if found else evaluation
    evidence = Evidence(
        look=look_number(parts, evaluation.suite, candidate),
        contamination=found,
        anchors=_anchors(parts, candidate),
        earlier=tuple(earlier),
        dev_losses=tuple(_dev_losses(parts, candidate)),
    )
    return gate(clean, parts.settings.gate, serving, parts.hooks, evidence)


def look_number(parts: Parts, suite: str, candidate: str = "") -> int:
    """Return how many other candidates were judged on a suite since its last promotion, plus one.

    A candidate counts once: a cycle that had nothing new to do, or another margin, is no new look.
    """
    others: set[str] = set()
    for verdict in _judged(parts, suite):
        others = set() if verdict.promote else others | {verdict.checkpoint}
    return len(others - {candidate}) + 1


def probe_earlier(
    parts: Parts, candidate: str, serving: str, *, suite: str, splits: Sequence[str], seed: int
) -> list[Evaluation]:
    """Run candidate and what serves on the held-out tasks of every earlier suite that taught something.

    The suite and splits of the present evaluation are left out: they are compared anyway.
    """
    n, known = parts.settings.gate.probes, {(suite, split) for split in splits}
    found = []
    for report in parts.ledger.cycles.list("done"):
        if not n or report.verdict is None or not report.verdict.promote:
            continue
        for held in report.evaluations[:1]:
            if (held.suite, held.split) in known or held.suite not in parts.registry.names("suite"):
                continue
            known.add((held.suite, held.split))
            found.append(
                evaluate_stage(
                    parts, suite=parts.suite(held.suite), split=held.split, n=min(n, held.n), seed=seed,
                    candidate=candidate, serving=serving, arms=("student", "serving", "base"),
                )
            )  # fmt: skip
    return found


def _judged(parts: Parts, suite: str) -> Iterator[Verdict]:
    for report in parts.ledger.cycles.list("done"):
        if report.suite == suite and report.verdict is not None and "unjudged" not in report.verdict.flags:
            yield report.verdict


def _contamination(parts: Parts, candidate: str, evaluation: Evaluation) -> Contamination | None:
    """Look for the evaluation's tasks in the rows that the candidate and its ancestors were trained on."""
    from agentkd.compiler.write import read_examples
    from agentkd.evaluate import find_leaks

    settings = parts.settings.gate
    if settings.contamination == "off" or not evaluation.arms:
        return None
    wanted = {result.task_id for result in evaluation.arms[0].results}
    tasks = parts.suite(evaluation.suite).tasks(evaluation.split)
    prompts = {task.id: task.prompt for task in tasks if task.id in wanted}

    def rows() -> Iterator[tuple[str, list[str]]]:
        for dataset_id in _datasets(parts, candidate):
            file = parts.root / "datasets" / dataset_id / "train.jsonl"
            for row in read_examples(file) if file.is_file() else ():
                yield row.id, [m.content for m in (*row.student_view, *row.teacher_view, row.target)]

    return find_leaks(prompts, rows, near=settings.near_copy)


def _datasets(parts: Parts, name: str) -> Iterator[str]:
    seen: set[str] = set()
    while name and name not in seen:
        seen.add(name)
        checkpoint = parts.checkpoint(name)
        yield checkpoint.dataset_id
        name = checkpoint.parent


def _anchors(parts: Parts, candidate: str) -> Anchors | None:
    from agentkd.hf import measure_anchors

    if not parts.settings.gate.anchors:
        return None
    return measure_anchors(parts.student_files.path, parts.checkpoint_folder(candidate))


def _dev_losses(parts: Parts, candidate: str) -> Iterator[float]:
    file = parts.checkpoint_folder(candidate) / "metrics.jsonl"
    if file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            value = json.loads(line)
            if "dev_loss" in value:
                yield float(value["dev_loss"])
