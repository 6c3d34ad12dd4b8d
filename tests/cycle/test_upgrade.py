"""A student moves to an upgraded base: the change of its weights, and nothing that was decided about it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import agentkd
from agentkd import hf
from agentkd.cli.root import run_command_line
from agentkd.cycle.candidate import sources_of
from agentkd.cycle.journal import open_plan
from agentkd.cycle.training import newest_checkpoint, train_job
from agentkd.errors import AgentkdError, CheckpointError, ConfigError, NotFoundError
from agentkd.schema import Scope


def upgraded(old: Path, folder: Path) -> Path:
    """Write a second base: the weights of the first one a little further on."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(old, folder)
    weights = load_file(str(old / "model.safetensors"))
    torch.manual_seed(3)
    moved = {name: tensor + 0.02 * torch.randn_like(tensor) for name, tensor in weights.items()}
    save_file(moved, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder


@pytest.fixture
def new_base(cycled: Path, tmp_path: Path) -> Path:
    with agentkd.Workspace(cycled) as workspace:
        return upgraded(workspace.parts.student_files.path, tmp_path / "upgraded")


def test_the_change_of_the_weights_is_added_to_the_new_base(
    cycled: Path, new_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file

    with agentkd.Workspace(cycled) as workspace:
        name, old_base = workspace.checkpoints()[0].name, workspace.parts.student_files.path
        old_id = workspace.parts.student_files.base_id
    asked = ["-q", "-C", str(cycled), "--json", "checkpoints", "transfer", name, "--to", f"path:{new_base}"]
    assert run_command_line(asked) == 0
    moved = json.loads(capsys.readouterr().out)
    assert (moved["parent"], moved["status"], moved["base"]) == (name, "candidate", f"path:{new_base}")
    assert moved["base_id"] != old_id
    assert run_command_line(asked) == 0  # found again
    assert json.loads(capsys.readouterr().out)["name"] == moved["name"]
    with agentkd.Workspace(cycled) as workspace:  # the registry knows every file of a student, however made
        for each in workspace.checkpoints():
            names = {file.name for file in workspace.parts.checkpoint_folder(each.name).iterdir()}
            assert {"adapter_model.safetensors", "checkpoint.json"} <= names == set(each.files)
    old, new = load_file(str(old_base / "model.safetensors")), load_file(str(new_base / "model.safetensors"))
    before = hf.read_adapter(cycled / "checkpoints" / name)
    after = hf.read_adapter(cycled / "checkpoints" / moved["name"])
    for module in before.pairs():
        weight = f"{module}.weight"
        difference = before.merged(module, old[weight]) - old[weight].float()
        wanted = new[weight].float() + difference
        assert (after.merged(module, new[weight]) - wanted).abs().max() < 1e-5
        assert difference.abs().max() > 0


def test_what_was_decided_about_the_old_checkpoint_does_not_leak_over(cycled: Path, new_base: Path) -> None:
    there = {"roles": {"student": f"path:{new_base}"}}
    with agentkd.Workspace(cycled) as workspace:
        name = workspace.checkpoints()[0].name
        workspace.promote(name, force=True)
        memory = workspace.memory.recall("What is the mayor of Lima?", scope=Scope(app="jsonl"))[0].memory
        workspace.ledger.memories.set_status(memory.id, "retired", "", checkpoint=name)
        moved = workspace.transfer(name, f"path:{new_base}")

        def recalled(checkpoint: str) -> set[str]:
            asked: dict[str, Any] = {"scope": Scope(app="jsonl"), "checkpoint": checkpoint}
            return {h.memory.id for h in workspace.memory.recall("What is the mayor of Lima?", **asked)}

        assert memory.id not in recalled(name)
        assert memory.id in recalled(moved.name)
    with agentkd.Workspace(cycled, settings=there) as workspace:
        assert workspace.parts.serving() is None  # the old student's weights mean nothing here
        with pytest.raises(ConfigError, match="was trained on another base"):
            workspace.promote(name, force=True)
        with pytest.raises(NotFoundError, match="the base model serves"):
            workspace.rollback()
        assert workspace.model("student").name == workspace.model("base").name
        assert newest_checkpoint(workspace.parts) == moved.name
        plan = open_plan(workspace.parts)
        assert plan.serving == "base"
        workspace.promote(moved.name, force=True)
        assert workspace.parts.serving() is not None
        assert workspace.model("student").name.endswith(moved.name)
    with agentkd.Workspace(cycled) as workspace:
        assert workspace.ledger.checkpoints.serving() is not None
        assert workspace.parts.serving() is None
    with agentkd.Workspace(cycled, settings=there) as workspace:
        assert workspace.rollback() == (moved.name, "base")


def test_training_on_the_new_base_may_start_from_it(cycled: Path, new_base: Path) -> None:
    there = {"roles": {"student": f"path:{new_base}"}, "train": {"candidates": ["stacked"]}}
    with agentkd.Workspace(cycled) as workspace:
        moved = workspace.transfer(workspace.checkpoints()[0].name, f"path:{new_base}")
    with agentkd.Workspace(cycled, settings=there) as workspace:
        card = workspace.compile()
        assert card.base == moved.base_id
        job = train_job(workspace.parts, card.id, str(cycled / "out"), moved.name)
        assert job.init_adapter.endswith(moved.name)
        (source,) = sources_of(workspace.parts, open_plan(workspace.parts), card.id)
        assert (source.kind, source.init) == ("stacked", moved.name)
        workspace.ledger.checkpoints.set_status(moved.name, "rejected")
        (source,) = sources_of(workspace.parts, open_plan(workspace.parts), card.id)
        assert (source.kind, source.init) == ("union", "")


def test_what_does_not_fit_is_refused_with_the_reason(cycled: Path, new_base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    with agentkd.Workspace(cycled) as workspace:
        name = workspace.checkpoints()[0].name
        source = workspace.settings.roles.student

        def why(base: Path | str, kind: type[AgentkdError] = CheckpointError) -> str:
            with pytest.raises(kind) as refused:
                workspace.transfer(name, base if isinstance(base, str) else f"path:{base}")
            return str(refused.value)

        assert "trained on" in why(source, ConfigError)
        assert "hidden_size" in why(hf.tiny_model(tmp_path / "wide", width=96))
        assert "tokenizer" in why(hf.tiny_model(tmp_path / "words", n_vocabulary=300))
        deeper = tmp_path / "deeper"
        shutil.copytree(new_base, deeper)
        weights = load_file(str(deeper / "model.safetensors"))
        more = {
            k.replace("layers.1.", "layers.2."): v.clone() for k, v in weights.items() if "layers.1." in k
        }
        save_file({**weights, **more}, str(deeper / "model.safetensors"), metadata={"format": "pt"})
        assert "more layers" in why(deeper)
        narrow = {k: v for k, v in weights.items() if "layers.1.mlp" not in k}
        save_file(narrow, str(deeper / "model.safetensors"), metadata={"format": "pt"})
        assert "not there" in why(deeper)
        workspace.ledger.checkpoints.set_status(name, "tainted")
        assert "revoked" in why(new_base)
        assert len(workspace.checkpoints()) == 1
