"""Rows that were changed on their way, or that a false correction gave, are seen and refused."""

from __future__ import annotations

from pathlib import Path

import agentkd
from agentkd import hf
from agentkd.compiler.write import read_examples
from agentkd.cycle import judge
from agentkd.schema import Correction, Example, Message, ToolCall, Verdict


def changed(workspace: agentkd.Workspace, rows: list[Example], **changes: object) -> None:
    """Write rows over those of the candidate's dataset, the first one with changes."""
    name = workspace.report().checkpoint
    file = workspace.root / "datasets" / workspace.parts.checkpoint(name).dataset_id / "train.jsonl"
    rows[0] = rows[0].model_copy(update=changes)
    file.write_text("".join(row.model_dump_json() + "\n" for row in rows), encoding="utf-8")


def rows_of(workspace: agentkd.Workspace) -> list[Example]:
    name = workspace.report().checkpoint
    folder = workspace.root / "datasets" / workspace.parts.checkpoint(name).dataset_id
    return list(read_examples(folder / "train.jsonl"))


def wrong_target(row: Example) -> Message:
    call = row.target.tool_calls[0]
    wrong = ToolCall(name=call.name, arguments={**call.arguments, "city": "Nowhere"})
    return Message(role="assistant", content=hf.call_text(wrong), tool_calls=(wrong,), origin="person")


def verdict_of(workspace: agentkd.Workspace) -> Verdict:
    report = workspace.report()
    return judge(workspace.parts, report.checkpoint, "base", report.evaluations[0])


def test_honest_rows_rest_on_what_they_name_and_the_grader_agrees(calm: Path) -> None:
    with agentkd.Workspace(calm) as workspace:
        verdict = workspace.report().verdict
        n_rows = len(rows_of(workspace))
    assert verdict is not None
    assert verdict.numbers["rows"] == verdict.numbers["regraded"] == n_rows
    assert verdict.numbers["unfounded"] == verdict.numbers["refuted"] == 0


def test_a_target_that_no_run_and_no_correction_gave_is_refused(cycled: Path) -> None:
    with agentkd.Workspace(cycled) as workspace:
        rows = rows_of(workspace)
        target = wrong_target(rows[0])
        tokens = hf.render_example(
            hf.load_tokenizer(workspace.parts.student_files.path), rows[0].student_view, target
        )
        changed(workspace, rows, target=target, student=tokens)
        verdict = verdict_of(workspace)
        assert {"unfounded_rows", "refuted_rows"} <= {*verdict.flags}
        assert verdict.numbers["unfounded"] == 1
        assert any(f"such as `{rows[0].id}`" in reason for reason in verdict.reasons)
        off = workspace.parts.settings.gate.model_copy(update={"row_checks": False})
        workspace.parts.settings = workspace.parts.settings.model_copy(update={"gate": off})
        assert "rows" not in verdict_of(workspace).numbers


def test_tokens_that_say_something_else_than_the_target_are_refused(cycled: Path) -> None:
    with agentkd.Workspace(cycled) as workspace:
        rows = rows_of(workspace)
        tokens = hf.render_example(
            hf.load_tokenizer(workspace.parts.student_files.path), rows[0].student_view, wrong_target(rows[0])
        )
        changed(workspace, rows, student=tokens)
        assert "unfounded_rows" in verdict_of(workspace).flags


def test_a_false_correction_is_refuted_by_the_grader_alone(cycled: Path) -> None:
    with agentkd.Workspace(cycled) as workspace:
        rows = rows_of(workspace)
        target, run = wrong_target(rows[0]), rows[0].provenance.trajectories[0]
        false = Correction(
            id="cor-false", trajectory_id=run, text="Like this.", source="person", accepted=target.tool_calls
        )
        workspace.ledger.corrections.add(false)
        tokens = hf.render_example(
            hf.load_tokenizer(workspace.parts.student_files.path), rows[0].student_view, target
        )
        provenance = rows[0].provenance.model_copy(update={"corrections": ("cor-false",)})
        changed(workspace, rows, target=target, student=tokens, provenance=provenance)
        verdict = verdict_of(workspace)
        assert "refuted_rows" in verdict.flags
        assert "unfounded_rows" not in verdict.flags


def test_what_a_teacher_said_in_its_own_words_is_judged_by_the_grader_alone(cycled: Path) -> None:
    with agentkd.Workspace(cycled) as workspace:
        rows = rows_of(workspace)
        tokenizer = hf.load_tokenizer(workspace.parts.student_files.path)
        provenance = rows[0].provenance.model_copy(update={"is_retold": True})
        seen = {}
        for name, target in (("right", rows[0].target), ("wrong", wrong_target(rows[0]))):
            words = Message(role="assistant", content=hf.as_text(target), origin="model")
            tokens = hf.render_example(tokenizer, rows[0].student_view, words)
            changed(workspace, rows, target=words, student=tokens, provenance=provenance)
            seen[name] = verdict_of(workspace)
        assert seen["right"].numbers["unfounded"] == seen["right"].numbers["refuted"] == 0
        assert seen["wrong"].numbers["unfounded"] == 0
        assert seen["wrong"].numbers["refuted"] == 1
