"""A student is exported from the command line, checked on prompts of the workspace, which remembers it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from agentkd import hf
from agentkd.schema import Checkpoint
from agentkd.workspace import Workspace

pytest.importorskip("gguf")

NAME = "student@1-0123abcd"


@pytest.fixture
def own(shop: Path, tmp_path: Path) -> Path:
    """Copy the compiled workspace and put a student into it."""
    import torch
    from peft import LoraConfig, get_peft_model

    root = tmp_path / "own"
    shutil.copytree(shop, root)
    with Workspace(root) as workspace:
        files = workspace.parts.student_files
        model: Any = get_peft_model(
            hf.load_model(files.path, "float32", "cpu"), LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
        )
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(str(root / "checkpoints" / NAME))
        (dataset,) = workspace.ledger.datasets.list()
        workspace.ledger.checkpoints.add(
            Checkpoint(
                name=NAME,
                base=files.source,
                base_id=files.base_id,
                dataset_id=dataset.id,
                files=hf.registered_files(root / "checkpoints" / NAME, {}),
            )
        )
    return root


def test_every_shape_leaves_the_workspace_checked_and_on_record(cli: Any, own: Path, tmp_path: Path) -> None:
    for shape, dtype in (("peft", []), ("gguf-adapter", []), ("gguf", ["--dtype", "float32"])):
        done = cli(
            "-C", own, "--json", "checkpoints", "export", NAME, tmp_path / shape, "--as", shape, *dtype
        )
        assert done.code == 0, done.err
        assert done.json["prompts"].startswith("dataset dat-")
        assert all(parity["agreement"] >= parity["bar"] for parity in done.json["parity"])
        assert (tmp_path / shape).exists()
    listed = cli("-C", own, "--json", "checkpoints", "exports", NAME)
    assert [export["shape"] for export in listed.json] == ["peft", "gguf-adapter", "gguf"]
    shown = cli("-C", own, "checkpoints", "exports", NAME)
    assert "gguf-adapter" in shown.out


def test_an_export_that_is_refused_leaves_nothing_and_an_exit_code(
    cli: Any, own: Path, tmp_path: Path
) -> None:
    done = cli("-C", own, "checkpoints", "export", NAME, tmp_path / "out", "--as", "gguf", "--dtype", "q8_0")
    assert done.code == 9
    assert "needed 0.98" in done.err
    assert not list(tmp_path.glob("out*"))
    assert cli("-C", own, "--json", "checkpoints", "exports", NAME).json == []
    assert cli("-C", own, "checkpoints", "export", "student@9-0123abcd", tmp_path / "out").code == 6


@pytest.mark.parametrize(("suite", "origin"), [("jsonl", "suite jsonl, train"), ("", "built-in texts")])
def test_without_a_dataset_prompts_come_from_the_suite_or_the_library(
    cli: Any, own: Path, tmp_path: Path, suite: str, origin: str
) -> None:
    for file in own.glob("datasets/*/train.jsonl"):
        file.unlink()
    done = cli("-C", own, "--set", f"cycle.suite={json.dumps(suite)}", "--json",
               "checkpoints", "export", NAME, tmp_path / "out", "--as", "peft")  # fmt: skip
    assert done.code == 0, done.err
    assert done.json["prompts"] == origin
