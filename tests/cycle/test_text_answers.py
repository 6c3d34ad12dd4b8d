"""A cycle over a file of tasks whose accepted answers are texts teaches as one with calls does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import agentkd
from agentkd.compiler import read_examples

COLOURS = ("amber", "beige", "coral", "denim", "ebony", "fawn", "green", "hazel", "ivory", "jade",
           "khaki", "lilac", "mauve", "navy", "ochre", "pink", "red", "sepia", "teal", "umber")  # fmt: skip
HELD_OUT = COLOURS[12:]


def write_tasks(path: Path) -> None:
    rows = [
        {
            "id": f"door-{number}",
            "prompt": f"What colour is the door of house number {number}?",
            "answer": [f"It is {colour}.", colour],
            "split": "holdout" if colour in HELD_OUT else "train",
        }
        for number, colour in enumerate(COLOURS)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")


def test_accepted_texts_become_corrections_memories_and_rows_but_never_those_of_a_holdout(
    new_workspace: Callable[[str], Path],
) -> None:
    folder = new_workspace("texts")
    write_tasks(folder / "doors.jsonl")
    file = folder / "agentkd.toml"
    said = re.sub(r"(?m)^path = .*$", f'path = "{folder / "doors.jsonl"}"', file.read_text(encoding="utf-8"))
    file.write_text(said, encoding="utf-8")
    with agentkd.Workspace(folder) as workspace:
        report = workspace.cycle()
        assert all(report.counts[name] > 0 for name in ("corrections", "memories", "dataset_rows"))
        corrections = workspace.ledger.corrections.list()
        memories = workspace.ledger.memories.list()
        dataset = folder / "datasets" / workspace.datasets()[0].id
        held_out = {t.id for t in workspace.trajectories() if t.task.is_held_out}
    assert {c.accepted_answer for c in corrections} <= {f"It is {colour}." for colour in COLOURS[:12]}
    assert held_out
    assert not held_out & {c.trajectory_id for c in corrections}
    assert any("\nAnswer: It is amber." in memory.content for memory in memories)
    rows = [row for split in ("train", "dev") for row in read_examples(dataset / f"{split}.jsonl")]
    (row,) = [row for row in rows if row.kind == "correction" and row.task_id == "door-0"]
    assert (row.target.content, row.provenance.teacher) == ("It is amber.", "grader")
    assert all(row.rejected is None or not row.rejected.tool_calls for row in rows)
    assert not held_out & {id for row in rows for id in row.provenance.trajectories}
    learnt = " ".join(value.model_dump_json() for value in (*corrections, *memories))
    assert not [colour for colour in HELD_OUT if re.search(rf"\b{colour}\b", learnt)]
