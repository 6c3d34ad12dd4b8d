"""How `gate.py` makes its candidates: one workspace, clean rows, a real training of each in this process."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gate_candidates import N_ROWS, Candidate, Kitchen, Lesson
from gate_tasks import N_EVAL, NAME, GateTasks
from measure import WORK

from agentkd import Workspace, hf
from agentkd.compiler.write import Tally, read_examples, read_outlines, write_dataset
from agentkd.cycle.evaluation import evaluate_stage
from agentkd.cycle.row_audit import audit_rows
from agentkd.cycle.stage import compile_stage, distill_stage, run_stage
from agentkd.cycle.training import train_job
from agentkd.evaluate import RowAudit
from agentkd.schema import DatasetCard, Evaluation, Example, content_id

__all__ = ["FOLDER", "audited", "cell_key", "evaluation_of", "learn", "made", "workspace_of"]

FOLDER = WORK / "gate"
SETTINGS: dict[str, Any] = {
    "plugins": {"modules": ["gate_tasks"]},
    "cycle": {"suite": NAME, "split": "train"},
    "agent": {"max_steps": 1, "force_tool_call": True, "tool_detail": "brief", "recall": "start"},
    "models": {"max_new_tokens": 64},
    "memory": {"k": 1, "min_score": 0.2, "max_rendered_chars": 1200},
    "distill": {"distillers": ["case"]},
    "compile": {"dev_share": 0.0},
    "evaluate": {"arms": ["base", "base + memory", "student"]},
    "train": {
        "epochs": 2, "learning_rate": 1e-3, "tokens_per_step": 256,
        "save_every_seconds": 1e9,
    },
}  # fmt: skip


@contextmanager
def workspace_of(folder: Path = FOLDER, **settings: Any) -> Iterator[Workspace]:
    """Open the workspace of the benchmark; tables given replace single keys of `SETTINGS`."""
    tables = {name: dict(table) for name, table in SETTINGS.items()}
    for name, table in settings.items():
        tables.setdefault(name, {}).update(table)
    with Workspace(folder / "workspace", settings=tables) as workspace:
        yield workspace


def learn(folder: Path = FOLDER) -> tuple[list[Example], DatasetCard]:
    """Run the tasks to learn from with the bare base, distil, compile; return clean rows and their card.

    They are compiled once: later the ledger also holds the false corrections of spoilt candidates.
    """
    named = folder / "clean.txt"
    with workspace_of(folder) as workspace:
        parts = workspace.parts
        suite = parts.suite(NAME)
        run_stage(
            parts, suite=suite, tasks=suite.tasks("train"), run_id="learn", model="base", uses_memory=False,
            label="learn",
        )  # fmt: skip
        learnt = workspace.trajectories(run_id="learn")
        if not workspace.ledger.memories.list():
            print(distill_stage(parts, learnt).summary, flush=True)
        if not named.is_file():
            named.write_text(compile_stage(parts, learnt).id, encoding="utf-8")
        card = workspace.ledger.datasets.get(named.read_text(encoding="utf-8"))
        folder = parts.root / "datasets" / card.id
        return [*read_examples(folder / "train.jsonl"), *read_examples(folder / "dev.jsonl")], card


def made(
    candidate: Candidate, clean: list[Example], card: DatasetCard, folder: Path = FOLDER
) -> dict[str, Any]:
    """Return a candidate's cell: checkpoint, evaluation, cost; made where it is not there."""
    file = folder / "cells" / f"{candidate.name}.json"
    if file.is_file():
        held = dict(json.loads(file.read_text(encoding="utf-8")))
        if held.get("key", cell_key()) == cell_key():
            return held
    began = time.process_time()
    with workspace_of(folder) as workspace:
        lesson = _lesson(workspace, candidate, clean)
        dataset = _stored(workspace, lesson, card)
    number = 1 + len(list((folder / "cells").glob("*.json")))
    with workspace_of(folder, train=lesson.train) as workspace:
        name = _trained(workspace, dataset, f"student@{number}-{content_id('x', candidate.name)[-8:]}")
        trained = time.process_time()
        evaluation = evaluate_stage(
            workspace.parts, suite=workspace.parts.suite(NAME), split="holdout", n=N_EVAL, seed=0,
            candidate=name, serving="base",
        )  # fmt: skip
    cell = {
        "key": cell_key(),
        "checkpoint": name, "train_cpu": trained - began, "cpu": time.process_time() - began,
        "evaluation": evaluation.model_dump(mode="json"),
    }  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(f".{os.getpid()}.tmp")
    aside.write_text(json.dumps(cell), encoding="utf-8")
    os.replace(aside, file)
    return cell


def audited(candidates: Iterable[Candidate], clean: list[Example], folder: Path = FOLDER) -> list[RowAudit]:
    """Hold the rows of each candidate against their evidence, as the gate does; nothing is trained."""
    with workspace_of(folder) as workspace:
        return [audit_rows(workspace.parts, _lesson(workspace, one, clean).rows) for one in candidates]


def _lesson(workspace: Workspace, candidate: Candidate, clean: list[Example]) -> Lesson:
    """Return what a candidate is trained on; its false corrections come into the ledger."""
    suite = workspace.parts.suite(NAME)
    assert isinstance(suite, GateTasks)
    lesson = Kitchen(workspace, suite, clean).lesson(candidate)
    for correction in lesson.corrections:
        workspace.ledger.corrections.add(correction)
    return lesson


def cell_key() -> str:
    """Return the hash of what decides every cell."""
    return content_id("cell", SETTINGS, N_EVAL, N_ROWS)


def evaluation_of(cell: dict[str, Any]) -> Evaluation:
    """Return the evaluation in a cell."""
    return Evaluation.model_validate(cell["evaluation"])


def _stored(workspace: Workspace, lesson: Lesson, like: DatasetCard) -> str:
    """Write a lesson as a dataset and register it."""

    def finish(tally: Tally) -> DatasetCard:
        ids = content_id("dat", "gate", sorted(tally.train), sorted(tally.dev))
        sizes = {
            "n_train": len(tally.train), "n_dev": len(tally.dev), "n_tokens": tally.n_tokens,
            "n_label_tokens": tally.n_label_tokens, "kinds": dict(tally.kinds), "sources": tally.sources(),
        }  # fmt: skip
        return like.model_copy(update={"id": ids, **sizes})

    root = workspace.root / "datasets"
    rows = [*((row, "train") for row in lesson.rows), *((row, "dev") for row in lesson.dev)]
    tokenizer = hf.load_tokenizer(workspace.parts.student_files.path)
    card = write_dataset(root, iter(rows), finish, tokenizer)  # type: ignore[arg-type]
    with workspace.ledger.transaction():
        for split in ("train", "dev"):
            workspace.ledger.datasets.add(card, read_outlines(root / card.id / f"{split}.jsonl"), split)  # type: ignore[arg-type]
    return card.id


def _trained(workspace: Workspace, dataset: str, name: str) -> str:
    """Train as the trainer does, without the seconds that a process of its own takes to start."""
    from agentkd.train.loop import train
    from agentkd.train.reporter import Reporter

    parts = workspace.parts
    job = train_job(parts, dataset, str(parts.root / "checkpoints" / name))
    checkpoint = train(job, Reporter(is_machine=False, is_muted=True))
    parts.ledger.checkpoints.add(checkpoint.model_copy(update={"base": parts.settings.roles.student}))
    return name
