from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agentkd import hf
from agentkd.agents import PromptBuilder
from agentkd.compiler import CompileInputs, ListedTraces, compile_dataset
from agentkd.config import AgentSettings, CompileSettings
from agentkd.ledger import Ledger
from agentkd.plugins import PluginHost
from agentkd.schema import (
    Correction,
    Evidence,
    Hit,
    Memory,
    Message,
    Outcome,
    Scope,
    Step,
    Task,
    ToolCall,
    ToolResult,
    ToolSpec,
    Trajectory,
    memory_id,
)

TOOLS = (
    ToolSpec(
        name="book",
        description="Book a table.",
        parameters={
            "type": "object",
            "properties": {"city": {"type": "string"}, "people": {"type": "integer"}},
        },
    ),
    ToolSpec(name="find", description="Find a place."),
)


def embed(texts):
    """Bags of words as unit vectors."""
    vectors = np.zeros((len(texts), 256), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in text.lower().split():
            vectors[row, zlib.crc32(word.encode()) % 256] += 1
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def render(hits):
    return "Lessons:\n" + "\n".join(hit.memory.content for hit in hits)


class Make:
    """Builders for inputs; every default can be overridden."""

    def __init__(self, tokenizer_folder, out_root) -> None:
        self.tokenizer_folder = tokenizer_folder
        self.out_root = out_root
        self.tokenizer = hf.load_tokenizer(tokenizer_folder)

    @staticmethod
    def call(name: str, **arguments: Any) -> ToolCall:
        return ToolCall(name=name, arguments=arguments)

    @staticmethod
    def run(
        task: str = "t0",
        calls: tuple[ToolCall, ...] = (ToolCall(name="book", arguments={"people": 2, "city": "Oslo"}),),
        success: bool | None = True,
        *,
        prompt: str = "",
        split: str = "train",
        group: str = "",
        **more: Any,
    ) -> Trajectory:
        steps = tuple(
            Step(
                index=i,
                reply=Message(role="assistant", tool_calls=(c,), origin="model"),
                accepted_calls=(c,),
                results=(ToolResult(content=f"result {i}"),),
                recalled=more.get("recalled", ()),
            )
            for i, c in enumerate(calls)
        )
        more.pop("recalled", None)
        outcome = None if success is None else Outcome(success=success, reward=float(success))
        prompt = prompt or f"please {task} {task}-a {task}-b"
        return Trajectory(
            **{
                "id": f"tra-{task}",
                "run_id": "r",
                "task": Task(id=task, suite="shop", prompt=prompt, split=split, group=group),
                "steps": steps,
                "outcome": outcome,
                "model": "base",
                **more,
            }
        )

    @staticmethod
    def correction(of: Trajectory, *accepted: ToolCall, **more: Any) -> Correction:
        fields = {
            "id": f"cor-{of.id}-{more.get('step')}",
            "trajectory_id": of.id,
            "text": "no",
            "source": "grader",
            "accepted": accepted,
        }
        return Correction(**{**fields, **more})

    @staticmethod
    def memory(content: str, *of: Trajectory, **more: Any) -> Memory:
        fields = {
            "id": memory_id("case", "always", content, Scope()),
            "kind": "case",
            "when_to_use": "always",
            "content": content,
            "status": "active",
            "evidence": Evidence(trajectories=tuple(t.id for t in of)),
            "support": len(of),
        }
        return Memory(**{**fields, **more})

    @staticmethod
    def ledger(*runs: Trajectory, corrections=()) -> Ledger:
        ledger = Ledger.open("sqlite://")
        for run in runs:
            ledger.trajectories.begin(run.model_copy(update={"steps": ()}))
            for step in run.steps:
                ledger.trajectories.add_step(run.id, step)
            ledger.trajectories.finish(run)
        for correction in corrections:
            ledger.corrections.add(correction)
        return ledger

    def inputs(self, runs, corrections=(), memories=(), **more: Any) -> CompileInputs:
        by_run: dict[str, list[Correction]] = {}
        for correction in corrections:
            by_run.setdefault(correction.trajectory_id, []).append(correction)

        def recall(run):
            return [Hit(memory=m, score=0.9) for m in memories if run.id not in m.evidence.trajectories]

        inputs = CompileInputs(
            traces=ListedTraces(runs, by_run),
            memories=memories,
            recall=recall,
            render=render,
            views=PromptBuilder(AgentSettings(force_tool_call=True)),
            tools_of=lambda task: TOOLS,
            tokenizer=self.tokenizer_folder,
            base_id="base-x",
            teacher="base",
            embed=embed,
        )
        return replace(inputs, **more)

    def compile(self, inputs: CompileInputs, **more: Any):
        settings = more.pop("settings", {})
        keywords = {
            "settings": CompileSettings(**{"dev_share": 0.0, **settings}),
            "need_teacher": False,
            "hooks": PluginHost(auto=False).hooks,
            "out_root": self.out_root,
            **more,
        }
        return compile_dataset(inputs, **keywords)


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    return hf.tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def make(tokenizer_folder, tmp_path):
    return Make(tokenizer_folder, tmp_path / "datasets")


@pytest.fixture
def rows(make):
    """Give a function that reads back the rows of a dataset."""
    from agentkd.compiler import read_examples

    def read(card, split="train"):
        return list(read_examples(make.out_root / card.id / f"{split}.jsonl"))

    return read
