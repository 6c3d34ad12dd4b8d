"""Resumable saves by themselves, without a training around them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from agentkd.errors import CheckpointError
from agentkd.train import saves


def two_layers(seed: int) -> tuple[torch.nn.ModuleDict, torch.optim.AdamW]:
    torch.manual_seed(seed)
    model = torch.nn.ModuleDict({"used": torch.nn.Linear(3, 2), "unused": torch.nn.Linear(3, 2)})
    return model, torch.optim.AdamW(model.parameters())


def stepped(folder: Path) -> tuple[torch.nn.ModuleDict, torch.optim.AdamW]:
    """Save after a step in which one of two layers got no gradient."""
    model, optimizer = two_layers(1)
    model["used"](torch.ones(3)).sum().backward()
    optimizer.step()
    saves.save(folder, saves.Progressed(step=1), model, optimizer, {})
    return model, optimizer


def test_a_layer_that_got_no_gradient_is_resumed_without_a_state(tmp_path: Path) -> None:
    before, _ = stepped(tmp_path)
    model, optimizer = two_layers(2)
    progressed, _ = saves.restore(tmp_path / "step-000001", model, optimizer)
    assert progressed.step == 1
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before.get_parameter(name))
        assert bool(optimizer.state.get(parameter)) == name.startswith("used")


def test_a_save_of_another_adapter_is_refused(tmp_path: Path) -> None:
    stepped(tmp_path)
    model, optimizer = two_layers(2)
    model["further"] = torch.nn.Linear(3, 2)
    with pytest.raises(CheckpointError, match="does not fit this model"):
        saves.restore(tmp_path / "step-000001", model, optimizer)
