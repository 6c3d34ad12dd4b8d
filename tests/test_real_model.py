"""One short step with the real SmolLM2 on real requests: it calls, it is trained, it has learnt."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import agentkd
from agentkd import hf
from agentkd.schema import Checkpoint, Example, Message

N_ROWS = 8
SETTINGS = {
    "agent": {"max_steps": 1, "force_tool_call": True, "tool_detail": "brief", "recall": "off"},
    "models": {"max_new_tokens": 256, "device": "cpu"},
    "memory": {"embedder": "hashing", "index": "exact"},
    "distill": {"distillers": ["case"]},
    "compile": {"dev_share": 0.0, "near_duplicate": 1.0},
    "train": {"epochs": 1, "learning_rate": 1e-3, "device": "cpu"},
    "cycle": {"suite": "bfcl-live", "n": N_ROWS},
}

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def folder(
    built_once: Callable[[str, Callable[[Path], object]], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a workspace in which the base has answered eight requests; the wheels come by pip if need be."""

    def build(folder: Path) -> None:
        with agentkd.Workspace(folder, settings=SETTINGS) as workspace:
            assert workspace.run().n == N_ROWS
            workspace.distill()
            assert workspace.compile().n_train == N_ROWS

    return Path(shutil.copytree(built_once("real-model", build), tmp_path_factory.mktemp("real") / "copy"))


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Checkpoint:
    """Return a student after two optimiser steps in the training process."""
    with agentkd.Workspace(folder) as workspace:
        n_tokens = workspace.datasets()[0].n_tokens
    train = {**SETTINGS["train"], "tokens_per_step": int(0.6 * n_tokens)}
    with agentkd.Workspace(folder, settings={**SETTINGS, "train": train}) as workspace:
        return workspace.train()


@pytest.fixture
def workspace(folder: Path) -> Iterator[agentkd.Workspace]:
    with agentkd.Workspace(folder, settings=SETTINGS) as workspace:
        yield workspace


def log_likelihood(model: object, example: Example) -> float:
    """Return the summed log-probability of the trained tokens of a row."""
    import torch

    ids = torch.tensor([example.student.ids])
    with torch.inference_mode():
        logits = model(ids).logits[0, :-1].float()  # type: ignore[operator]
    picked = logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    return float((picked * (torch.tensor(example.student.weights[1:]) > 0)).sum())


def test_the_base_answers_with_a_call_that_fits_the_tool(workspace: agentkd.Workspace) -> None:
    task = workspace.parts.suite("bfcl-live").tasks("train", 1)[0]
    tools = {tool.name: tool for tool in workspace.parts.suite("bfcl-live").environment(task).tools}
    for trajectory in workspace.trajectories():
        reply = trajectory.steps[0].reply
        call = reply.tool_calls[0]
        assert json.loads(reply.content) == {"name": call.name, "arguments": call.arguments}
        schema = tools[call.name].parameters
        assert set(schema.get("required", ())) <= set(call.arguments) <= set(schema["properties"])


def test_two_steps_make_a_trained_row_likelier(workspace: agentkd.Workspace, checkpoint: Checkpoint) -> None:
    assert checkpoint.metrics["steps"] == 2
    dataset = workspace.root / "datasets" / checkpoint.dataset_id
    example = Example.model_validate_json((dataset / "train.jsonl").read_text().splitlines()[0])
    model = hf.load_model(workspace.parts.student_files.path, dtype="float32", device="cpu")
    before = log_likelihood(model, example)
    student = hf.attach_adapter(model, workspace.root / "checkpoints" / checkpoint.name)
    assert log_likelihood(student, example) > before + 0.5
    with student.disable_adapter():
        assert log_likelihood(student, example) == pytest.approx(before, abs=1e-3)


def test_the_student_answers_through_litellm(workspace: agentkd.Workspace, checkpoint: Checkpoint) -> None:
    from agentkd.models.provider import register

    unregister = register(lambda name: workspace.model(f"agentkd/{name}"))
    try:
        import litellm  # after `register`, which sets it up so that it fetches nothing

        answer = litellm.completion(
            model=f"agentkd/{checkpoint.name}",
            messages=[{"role": "user", "content": "Request: What is 2 + 2?"}],
            max_tokens=8,
        )
    finally:
        unregister()
    assert answer.choices[0].message.content
    assert 0 < answer.usage.completion_tokens <= 8
    direct = workspace.model(f"agentkd/{checkpoint.name}").reply(
        [Message(role="user", content="Request: What is 2 + 2?")], max_new_tokens=8
    )
    assert answer.choices[0].message.content == direct.text
