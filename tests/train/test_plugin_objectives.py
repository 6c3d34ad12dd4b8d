"""A third party's losses, by the name of their module: checked in one call, trained by the command itself."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentkd import testing
from agentkd.schema import Example, Message, Rendered, TrainJob
from agentkd.testing import FakeKit

MakeJob = Callable[..., TrainJob]

PLUGIN = '''
"""Two losses: focal cross-entropy on tokens, and a hinge on pairs."""

from agentkd.hookspecs import hookimpl
from agentkd.plugins import Component
from agentkd.schema import Value


class FocalSettings(Value):
    gamma: float = 2.0
    """How much less a token counts that is likely already."""


class HingeSettings(Value):
    margin: float = 1.0
    """Nats by which the chosen completion is to be likelier."""


class Stateless:
    def prepare(self, n_steps):
        pass

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class Focal(Stateless):
    name = "focal"
    requires = frozenset()

    def __init__(self, settings):
        self.gamma = settings.gamma

    def forward(self, context):
        log_q = context.logits.log_softmax(-1).gather(1, context.targets[:, None])[:, 0]
        losses = -(-log_q.expm1()) ** self.gamma * log_q
        return {"focal": (losses * context.weights).sum() / context.normaliser}


class Hinge(Stateless):
    name = "hinge"
    requires = frozenset({"rejected"})

    def __init__(self, settings):
        self.margin = settings.margin

    def spans(self, log_q, context):
        sign = log_q.new_ones(len(log_q)).masked_fill(context.is_rejected, -1.0)
        losses = (self.margin - sign * (log_q / context.n_labels + 4.0)).clamp_min(0)
        halves = context.weights * (0.5 + 0.5 * (context.pair < 0))
        return {"hinge": (losses * halves).sum() / context.normaliser}


@hookimpl
def components():
    yield Component("objective", "focal", "Focal loss.", lambda s, kit: Focal(s), FocalSettings)
    yield Component("objective", "hinge", "Hinge on pairs.", lambda s, kit: Hinge(s), HingeSettings)
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "their_losses.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "their_losses"


def test_one_call_checks_both(module: str) -> None:
    registry = testing.check_plugin(importlib.import_module(module)).registry
    for name in ("focal", "hinge"):
        testing.check_objective(registry.build("objective", name, {}, FakeKit()))


def test_the_training_command_trains_them(
    module: str,
    tmp_path: Path,
    make_job: MakeJob,
    write_dataset: Callable[..., Path],
    make_example: Callable[..., Example],
) -> None:
    objective: dict[str, dict[str, Any]] = {
        "focal": {"gamma": 1.0},
        "hinge": {"weight": 0.5},
        "selective": {"objective": "focal", "keep": 0.5},
    }
    dataset = write_dataset([_pair(make_example(n)) for n in range(6)])
    job = make_job(
        dataset=dataset, objective=objective, plugins=(module,), epochs=1.0, tokens_per_step=128, device="cpu"
    )
    spec = tmp_path / "spec.json"
    spec.write_text(job.model_dump_json())
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", "agentkd.train", str(spec)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (Path(job.output) / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "terms" in line]
    assert len(steps) == 2
    assert set(steps[0]["terms"]) == {"focal", "hinge", "selective-focal"}
    assert all(line["grad_norm"] > 0 for line in steps)


def _pair(row: Example) -> Example:
    ids = row.student.ids
    wrong = (*ids[:-4], 401, 402, 2)
    weights = (0.0,) * (len(ids) - 4) + (1.0,) * 3
    return row.model_copy(
        update={
            "rejected": Message(role="assistant", content="n"),
            "student_rejected": Rendered(ids=wrong, weights=weights),
        }
    )
