"""`[train] teacher` reaches the training, and `agentkd datasets signals` shows what it left behind."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

import agentkd
from agentkd import hf
from agentkd.cycle.teach import teacher_fields
from agentkd.errors import ConfigError, NotFoundError

from .conftest import Cli

TRAIN = """
[train]
teacher = "path:{teacher}"
epochs = 1
dtype = "float32"
device = "cpu"

[train.objective.alm]
"""


@pytest.fixture
def root(shop: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shop, tmp_path / "shop"))


def test_a_foreign_teacher_of_the_settings_teaches_and_its_signals_are_shown(
    cli: Cli, root: Path, tmp_path: Path
) -> None:
    assert "no signals yet" in cli("-C", root, "datasets", "signals").out
    teacher = hf.tiny_model(tmp_path / "teacher", seed=5, n_vocabulary=280, width=32)
    with (root / "agentkd.toml").open("a", encoding="utf-8") as settings:
        settings.write(TRAIN.format(teacher=teacher))
    trained = cli("-C", root, "--json", "train")
    assert trained.code == 0, trained.err
    metrics = root / "checkpoints" / trained.json["name"] / "metrics.jsonl"
    assert '"alm"' in metrics.read_text(encoding="utf-8")
    (facts,) = cli("-C", root, "--json", "datasets", "signals").json
    assert (facts["teacher"], facts["unit"]) == (hf.base_id(teacher), "byte")
    assert facts["n_rows"] > 0
    assert facts["n_damaged"] == 0
    (shard,) = (root / "signals").glob("signals-*/*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    shown = cli("-C", root, "datasets", "signals").out
    assert "damaged" in shown
    assert cli("-C", root, "--json", "datasets", "signals").json[0]["n_damaged"] == 1
    _check_adapters(root, trained.json["name"])
    _check_that_unused_ones_are_dropped(cli, root, shard.parent)


def _check_that_unused_ones_are_dropped(cli: Cli, root: Path, folder: Path) -> None:
    """What a training used within the days stays; the rest goes."""
    assert cli("-C", root, "datasets", "signals", "--drop-unused", "0").code == 2
    kept = cli("-C", root, "--json", "datasets", "signals", "--drop-unused", "2")
    assert [facts["folder"] for facts in kept.json] == [folder.name]
    long_ago = time.time() - 3 * 86400
    os.utime(folder, (long_ago, long_ago))
    gone = cli("-C", root, "datasets", "signals", "--drop-unused", "2")
    assert f"dropped {folder.name}" in gone.err
    assert "no signals yet" in gone.out
    assert not list((root / "signals").iterdir())


def _check_adapters(root: Path, name: str) -> None:
    """A checkpoint of the same base can teach; one that is not there, or was tainted, cannot."""
    with agentkd.Workspace(root, settings={"train": {"teacher": f"checkpoint:{name}"}}) as workspace:
        fields = teacher_fields(workspace.parts)
        assert Path(fields["teacher_adapter"]) == root / "checkpoints" / name
        assert fields["teacher_id"].startswith("teacher-")
        workspace.ledger.checkpoints.set_status(name, "tainted")
        with pytest.raises(ConfigError, match="was revoked since"):
            teacher_fields(workspace.parts)
    with (
        agentkd.Workspace(root, settings={"train": {"teacher": "checkpoint:student@77"}}) as workspace,
        pytest.raises(NotFoundError),
    ):
        teacher_fields(workspace.parts)
