"""What the settings of a workspace make of a compilation: every road from the configuration to the rows."""

from __future__ import annotations

import pytest

from agentkd.compiler import read_examples
from agentkd.schema import RETRY_STRIDE
from agentkd.workspace import Workspace


@pytest.fixture
def compiled(make, tmp_path, tokenizer_folder):
    """Give a function that compiles three runs of a new workspace and returns the card and the rows."""
    opened = []

    def compile_with(runs=None, **settings):
        root = tmp_path / f"ws{len(opened)}"
        settings = {
            "roles.student": f"path:{tokenizer_folder}",
            "memory.embedder": "hashing",
            "memory.index": "exact",
            "plugins.auto": False,
            "compile.dev_share": 0.0,
            **settings,
        }
        tables: dict = {}
        for key, value in settings.items():
            *path, last = key.split(".")
            table = tables
            for name in path:
                table = table.setdefault(name, {})
            table[last] = value
        workspace = Workspace(root, settings=tables)
        opened.append(workspace)
        student = f"path:{tokenizer_folder}"
        good = make.run("a", calls=(make.call("find"), make.call("book", people=2)), model=student)
        bad = make.run(
            "a", id="bad", attempt=1, success=False, model=student,
            calls=(make.call("find"), make.call("book", people=9)),
        )  # fmt: skip
        other = make.run("b", success=False, calls=(make.call("find", q="x"),))
        retry = make.run("a", id="retry", attempt=RETRY_STRIDE, calls=(), model=student)  # counts for nothing
        for run in runs or (good, bad, retry, other, make.run("held", split="holdout")):
            workspace.ledger.trajectories.finish(run)
        workspace.correct(other, call=make.call("book", people=1), step=0)
        card = workspace.compile()
        return card, list(read_examples(workspace.root / "datasets" / card.id / "train.jsonl"))

    yield compile_with
    for workspace in opened:
        workspace.close()


def test_negatives_are_made_where_an_objective_asks_for_them(compiled):
    card, rows = compiled(**{"train.objective": {"redi": {}}})
    assert card.settings["need_rejected"]
    assert card.n_pairs == 2
    assert [
        row.rejected.tool_calls[0].arguments for row in rows if row.kind == "trajectory" and row.rejected
    ] == [{"people": 9}]
    plain, without = compiled(**{"train.objective": {"sft": {}}})
    assert not plain.settings["need_rejected"]
    assert [row.kind for row in without if row.rejected] == ["correction"]
    assert plain.dropped == {"failed without a correction": 1}


def test_another_teacher_sees_every_row_and_the_own_base_only_what_memories_help(compiled):
    settings = {"train.objective": {"forward-kl": {}}}
    _, own = compiled(**settings)
    card, taught = compiled(**settings, **{"train.teacher": "path:bigger"})
    assert [row.teacher for row in own] == [None] * 3
    assert all(row.teacher is not None and row.teacher_view for row in taught)
    assert card.teacher == "path:bigger"


def test_held_out_runs_of_the_ledger_are_not_read(compiled):
    _, rows = compiled()
    assert {row.task_id for row in rows} == {"a", "b"}


def test_role_and_correction_weights_come_from_the_settings(compiled):
    _, rows = compiled(**{"compile.role_weights": {"observation": 0.25}, "compile.correction_weight": 3.0})
    weights = {weight for row in rows for weight in row.student.weights}
    assert weights == {0.0, 0.25, 1.0, 3.0}


def test_selectors_are_named_and_tuned_in_the_settings(compiled):
    card, rows = compiled(
        **{
            "compile.selectors": ["correction", "difficulty"],
            "selector.correction": {"others": 0.5, "weight": 2.0},
            "selector.difficulty": {"prefer": "easy"},
        }
    )
    assert card.settings["selectors"] == ["correction", "difficulty"]
    assert {row.kind: row.weight for row in rows} == {"trajectory": 0.5, "correction": 2.0}
    skills = {row.task_id: row.extras.get("skill") for row in rows}
    assert skills == {"a": [2, 1], "b": None}  # `b` was run by another model


def test_the_divergence_selector_asks_for_teacher_views_and_finds_the_students_base(compiled):
    card, rows = compiled(**{"compile.selectors": ["divergence"], "train.objective": {"sft": {}}})
    assert card.settings["need_teacher"]
    assert len(rows) == 3
