"""A whole cycle on CUDA: `make gpu` runs this; it is skipped where there is no GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import agentkd

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _needs_cuda() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")


def test_a_cycle_trains_and_decodes_on_the_gpu(new_workspace: Callable[[str], Path]) -> None:
    on_gpu = {"models": {"device": "cuda"}, "train": {"device": "cuda"}}
    with agentkd.Workspace(new_workspace("gpu"), settings=on_gpu) as workspace:
        report = workspace.cycle()
        assert report.checkpoint
        assert report.loss_curve[-1][1] < report.loss_curve[0][1]
