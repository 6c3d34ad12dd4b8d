"""`reference = "checkpoint:NAME"` of an objective reaches the training as a folder, or is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

import agentkd
from agentkd.cycle.teach import objective_modules, settings_with_folders
from agentkd.cycle.training import read_beside
from agentkd.errors import ConfigError, NotFoundError
from agentkd.hf import file_sha256, registered_files
from agentkd.schema import Checkpoint, DatasetCard

SETTINGS = {
    "train": {
        "objective": {
            "selective": {"objective": "sft", "reference": "checkpoint:student@1-aaaaaaaa"},
            "dpo": {"reference": "base"},
        }
    }
}


def test_a_named_checkpoint_becomes_its_folder_and_a_tainted_one_is_refused(tmp_path: Path) -> None:
    with agentkd.Workspace(tmp_path / "shop", settings=SETTINGS) as workspace:
        parts = workspace.parts
        with pytest.raises(NotFoundError, match="student@1-aaaaaaaa"):
            settings_with_folders(parts)
        folder = parts.root / "checkpoints" / "student@1-aaaaaaaa"
        folder.mkdir(parents=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (folder / name).write_bytes(b"{}")
        parts.student_files = _Files("base-x")
        card = DatasetCard(id="d", n_train=1, n_dev=0, n_label_tokens=1, n_tokens=1)
        workspace.ledger.datasets.add(card, [])
        workspace.ledger.checkpoints.add(
            Checkpoint(
                name=folder.name,
                base="b",
                base_id="base-x",
                dataset_id="d",
                files=registered_files(folder, {}),
            )
        )
        found = settings_with_folders(parts).objective
        assert found["selective"] == {"objective": "sft", "reference": str(folder)}
        assert found["dpo"] == {"reference": "base"}
        assert objective_modules(parts) == ()
        workspace.ledger.checkpoints.set_status(folder.name, "tainted")
        with pytest.raises(
            ConfigError, match="`checkpoint:student@1-aaaaaaaa` is of another base or was tainted"
        ):
            settings_with_folders(parts)


def test_a_training_is_named_after_its_reference_wherever_that_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    adapter = tmp_path / "adapters" / "ref" / "adapter_model.safetensors"
    adapter.parent.mkdir(parents=True)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"of nobody")
    found = []
    for reference, content in (("adapters/ref", b"1"), (str(adapter.parent), b"1"), ("adapters/ref", b"2")):
        adapter.write_bytes(content)
        settings = {"train": {"objective": {"dpo": {"reference": reference}, "sft": {}}}}
        with agentkd.Workspace(tmp_path / "shop", settings=settings) as workspace:
            found.append(read_beside(workspace.parts))
    relative, absolute, changed = found
    assert relative == absolute
    assert changed == [file_sha256(adapter)] != relative


class _Files:
    def __init__(self, base_id: str) -> None:
        self.base_id = base_id
