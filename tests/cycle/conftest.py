"""A small world for whole cycles: forty tasks with known calls, and a tiny random student."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agentkd.hf import tiny_model

CITIES = ("Rome", "Oslo", "Lima", "Cairo", "Quito", "Delhi", "Paris", "Tunis", "Accra", "Hanoi")
TOOLS = [
    {
        "name": name,
        "description": f"Tell the {name} of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
        },
    }
    for name in ("weather", "population", "time", "mayor")
]


def write_tasks(path: Path) -> None:
    rows = []
    for tool in TOOLS:
        for number, city in enumerate(CITIES):
            split = "holdout" if number >= 7 else "train"
            rows.append(
                {
                    "id": f"{tool['name']}-{city}",
                    "prompt": f"What is the {tool['name']} of {city}?",
                    "split": split,
                    "tools": TOOLS,
                    "calls": [{"name": tool["name"], "arguments": {"city": city}}],
                }
            )
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("student"), seed=0)


@pytest.fixture
def new_workspace(tmp_path: Path, student: Path) -> Callable[[str], Path]:
    """Return a function that makes a workspace folder with its settings."""
    tasks = tmp_path / "tasks.jsonl"
    write_tasks(tasks)

    def make(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "agentkd.toml").write_text(
            f"""
[roles]
student = "path:{student}"

[agent]
max_steps = 1
force_tool_call = true
recall = "start"

[models]
dtype = "float32"
device = "cpu"
max_new_tokens = 48
batch_size = 8

[run]
workers = 8

[memory]
embedder = "hashing"
min_score = 0.05

[train]
epochs = 2
tokens_per_step = 512
dtype = "float32"
device = "cpu"
save_every_seconds = 0.0

[train.objective.sft]

[evaluate]
bootstrap = 500

[gate]
min_tasks = 8

[cycle]
suite = "jsonl"
split = "train"

[suite.jsonl]
path = "{tasks}"
""",
            encoding="utf-8",
        )
        return folder

    return make
