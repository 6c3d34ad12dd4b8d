"""`agentkd train`: plan, train, go on from an adapter, replay earlier rows."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from agentkd import Workspace
from agentkd.cli.train import print_plan
from agentkd.cycle.training import dataset_to_train, newest_checkpoint
from agentkd.errors import ConfigError, NotFoundError
from agentkd.schema import TrainPlan

from .conftest import Cli

FAST = (
    "--set", "train.epochs=1", "--set", "train.dtype=float32", "--set", "train.device=cpu",
    "--set", "train.lora.r=4", "--set", "train.lora.alpha=8",
)  # fmt: skip


@pytest.fixture
def own(shop: Path, tmp_path: Path) -> Path:
    """Return a copy of the compiled workspace that a test may train in."""
    return Path(shutil.copytree(shop, tmp_path / "own"))


def test_a_dry_run_says_what_it_takes_and_starts_nothing(cli: Cli, own: Path) -> None:
    before = sorted(path.name for path in (own / "checkpoints").glob("*"))
    done = cli("-C", own, "train", "--dry-run", "--json", *FAST, "--set", "train.learning_rate=0.01")
    assert done.code == 0, done.err
    plan = done.json
    assert plan["n_rows"] > 0
    assert plan["memory_mib"] > 50
    assert plan["objectives"] == {"sft": []}
    assert [advice["key"] for advice in plan["advice"]][:1] == ["train.learning_rate"]
    assert sorted(path.name for path in (own / "checkpoints").glob("*")) == before
    out = io.StringIO()
    print_plan(TrainPlan.model_validate(plan), Console(file=out, width=200))
    assert "advice: train.learning_rate = 0.0005 instead of 0.01" in out.getvalue()
    assert f"{plan['n_rows']} to train on" in out.getvalue()


def test_training_goes_on_from_an_adapter(cli: Cli, own: Path) -> None:
    assert cli("-C", own, "train", "--continue", *FAST).code == 6  # nothing to go on from
    first = cli("-C", own, "train", "--json", *FAST).json
    assert (first["parent"], first["metrics"]["predicted_memory_mib"] > 0) == ("", True)
    second = cli("-C", own, "train", "--continue", "--json", *FAST).json
    assert second["parent"] == first["name"]
    both = cli("-C", own, "train", "--from", first["name"], "--continue")
    assert both.code == 2
    unknown = cli("-C", own, "train", "--from", "student@9-nothing0")
    assert unknown.code == 6
    with Workspace(own) as workspace:
        assert newest_checkpoint(workspace.parts) == second["name"]
        workspace.ledger.checkpoints.set_status(first["name"], "tainted")
        with pytest.raises(ConfigError, match="revoked since"):
            workspace.plan_training(go_on_from=first["name"])


def test_replay_trains_on_the_union_and_keeps_its_lineage(cli: Cli, own: Path) -> None:
    with Workspace(own) as workspace:
        ledger, old = workspace.ledger, workspace.datasets()[-1]
        n_old = old.n_train
        folder = own / "datasets" / old.id
        newer = _part_of(workspace, folder)
        with pytest.raises(NotFoundError):
            dataset_to_train(workspace.parts, newer, ["dat-nothing"])
        union = ledger.datasets.get(dataset_to_train(workspace.parts, newer, [old.id]))
        rows = {row.example_id for row in ledger.datasets.rows(union.id, "train")}
        assert rows == {row.example_id for row in ledger.datasets.rows(old.id, "train")}
        assert (union.n_train, union.settings["replayed"]) == (n_old, [old.id])
        assert dataset_to_train(workspace.parts, newer, [old.id]) == union.id
        revoked = next(row for row in ledger.datasets.rows(union.id, "train"))
        assert revoked.provenance.trajectories
    planned = cli("-C", own, "train", newer, "--replay", old.id, "--dry-run", "--json", *FAST).json
    assert (planned["dataset_id"], planned["n_rows"]) == (union.id, union.n_train)
    with Workspace(own, settings={"train": {"replay_share": 0.0}}) as workspace:
        alone = workspace.ledger.datasets.get(dataset_to_train(workspace.parts, newer, [old.id]))
    assert alone.n_train < n_old


def _part_of(workspace: Workspace, folder: Path) -> str:
    """Register a dataset with the first half of the rows of another one."""
    from agentkd.compiler.write import read_outlines
    from agentkd.schema import DatasetCard

    card = DatasetCard.model_validate_json((folder / "card.json").read_text())
    lines = (folder / "train.jsonl").read_text().splitlines(keepends=True)
    kept = lines[: len(lines) // 2]
    part = folder.parent / "dat-part"
    part.mkdir()
    (part / "train.jsonl").write_text("".join(kept))
    (part / "dev.jsonl").write_text("")
    card = card.model_copy(update={"id": "dat-part", "n_train": len(kept), "n_dev": 0})
    (part / "card.json").write_text(json.dumps(card.model_dump(mode="json")))
    workspace.ledger.datasets.add(card, read_outlines(part / "train.jsonl"), "train")
    return "dat-part"
