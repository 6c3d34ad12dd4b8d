"""`agentkd datasets`: rows in colour and in brackets, and files for other trainers."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from agentkd.cli.row import RowView, print_row
from agentkd.schema import Example, Message, Provenance, Rendered

from .conftest import Cli


def row(**more: object) -> Example:
    weights = (0.0, 0.1, 1.0, 3.0)
    fields: dict[str, object] = {
        "id": "ex-1",
        "kind": "correction",
        "task_id": "t",
        "student_view": (),
        "target": Message(role="assistant", content="x"),
        "student": Rendered(ids=(0, 1, 2, 3), weights=weights),
        "student_rejected": Rendered(ids=(0, 1, 4), weights=(0.0, 0.0, 1.0)),
        "teacher": Rendered(ids=(5, 2), weights=(0.0, 1.0)),
        "provenance": Provenance(trajectories=("tra-[bold]",)),
    }
    return Example.model_validate({**fields, **more})


def printed(example: Example, monkeypatch: pytest.MonkeyPatch, *, colour: bool, **view: bool) -> str:
    monkeypatch.delenv("NO_COLOR", raising=False)
    return shown(
        example,
        Console(file=io.StringIO(), force_terminal=colour, color_system="standard" if colour else None),
        **view,
    )


def shown(example: Example, console: Console, **view: bool) -> str:
    words = ["prompt ", "result ", "said ", "changed ", "wrong ", "memories "]
    print_row(example, RowView(lambda ids: "".join(words[i] for i in ids), **view), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_without_colour_trained_tokens_stand_in_brackets_with_their_weight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = printed(row(), monkeypatch, colour=False, has_rejected=True)
    assert "prompt ⟦x0.1 result ⟧⟦said ⟧⟦x3 changed ⟧" in text
    assert "rejected:\n⟦✗ wrong ⟧" in text
    assert "tra-[bold]" in text
    assert "\x1b" not in text


def test_in_colour_heavier_tokens_are_brighter_and_rejected_ones_red(monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(row(), monkeypatch, colour=True, has_rejected=True)
    assert "\x1b[32mresult " in text
    assert "\x1b[1;32msaid " in text
    assert "\x1b[1;30;42mchanged " in text
    assert "\x1b[1;31mwrong " in text
    assert "⟦" not in text


def test_no_color_is_respected_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    text = shown(row(), Console(file=io.StringIO(), force_terminal=True, color_system="standard"))
    assert "⟦said ⟧" in text
    assert "\x1b[32m" not in text


def test_the_teachers_view_and_a_lone_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = printed(row(), monkeypatch, colour=False, is_teacher=True)
    assert "memories ⟦said ⟧" in teacher
    assert "wrong" not in teacher
    assert "no teacher view" in printed(row(teacher=None), monkeypatch, colour=False, is_teacher=True)
    alone = row(kind="negative", student=Rendered(ids=(0,), weights=(0.0,)))
    assert "⟦✗ wrong ⟧" in printed(alone, monkeypatch, colour=False)


def test_show_filters_by_kind_and_rejected(cli: Cli, shop: Path) -> None:
    pairs = cli("-C", shop, "datasets", "show", "--rejected", "-n", 1)
    assert '⟦✗ {"name": "set_lamp", "arguments": {"colour": "red"}}' in pairs.out.replace("\n", "")
    assert "correction" in pairs.out
    none = cli("-C", shop, "datasets", "show", "--kind", "negative")
    assert "no such rows" in none.out
    as_json = cli("-C", shop, "datasets", "show", "--rejected", "-n", 2, "--json").json
    assert all(row["student_rejected"]["ids"] for row in as_json["rows"])


def test_a_dataset_is_exported_for_other_trainers(cli: Cli, shop: Path, tmp_path: Path) -> None:
    card = cli("-C", shop, "datasets", "list", "--json").json[0]
    for form, keys in (
        ("trl-sft", {"prompt", "completion"}),
        ("trl-dpo", {"prompt", "chosen", "rejected"}),
        ("openai", {"messages"}),
    ):
        file = tmp_path / f"{form}.jsonl"
        done = cli("-C", shop, "datasets", "export", "--format", form, "-o", file, "--json").json
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        assert (done["n"], done["dataset"]) == (len(rows), card["id"])
        assert all(keys <= set(found) for found in rows)
    again = cli("-C", shop, "datasets", "export", "-o", tmp_path / "trl-sft.jsonl")
    assert again.code == 3
    assert "exists already" in again.err
    assert cli("-C", shop, "datasets", "export", "-o", tmp_path / "trl-sft.jsonl", "--force").code == 0
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
