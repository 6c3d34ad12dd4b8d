"""A small world for whole cycles: forty tasks with known calls, and a tiny random student."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import agentkd
from agentkd.testing import tiny_student

from .desk import SETTINGS as DESK
from .desk import Plugin

Once = Callable[[str, Callable[[Path], object]], Path]
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


SETTINGS = """
[roles]
student = "{student}"

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
epochs = 3
tokens_per_step = 512
dtype = "float32"
device = "cpu"
save_every_seconds = 0.0

[train.objective.sft]

[evaluate]
bootstrap = 500
evaluators = ["ablation", "hacking"]

[gate]
min_tasks = 8

[cycle]
suite = "jsonl"
split = "train"

[suite.jsonl]
path = "{tasks}"
"""


@pytest.fixture(scope="session")
def settings(built_once: Once) -> str:
    """Return the text of an `agentkd.toml` over the small world."""

    def build(world: Path) -> None:
        write_tasks(world / "tasks.jsonl")
        tiny_student(world / "student")

    world = built_once("cycle-world", build)
    return SETTINGS.format(student=f"path:{world / 'student'}", tasks=world / "tasks.jsonl")


@pytest.fixture
def new_workspace(tmp_path: Path, settings: str) -> Callable[[str], Path]:
    """Return a function that makes a workspace folder with its settings."""

    def make(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "agentkd.toml").write_text(settings, encoding="utf-8")
        return folder

    return make


@pytest.fixture(scope="session")
def calm(built_once: Once, settings: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a workspace after one undisturbed cycle, for reading only: all tests share it."""

    def build(folder: Path) -> None:
        (folder / "agentkd.toml").write_text(settings, encoding="utf-8")
        with agentkd.Workspace(folder) as workspace:
            workspace.cycle()

    return Path(shutil.copytree(built_once("calm", build), tmp_path_factory.mktemp("calm") / "workspace"))


@pytest.fixture
def cycled(calm: Path, tmp_path: Path) -> Path:
    """Return a copy of the cycled workspace that a test may change."""
    return Path(shutil.copytree(calm, tmp_path / "cycled"))


@pytest.fixture(scope="session")
def desk_done(built_once: Once, settings: str) -> Path:
    """Return a workspace whose first cycle promoted a student, for reading only; see `desk.py`."""

    def build(folder: Path) -> None:
        (folder / "agentkd.toml").write_text(settings, encoding="utf-8")
        with agentkd.Workspace(folder, settings=DESK, plugins=[Plugin(kept="grey")]) as workspace:
            workspace.cycle()

    return built_once("desk", build)


@pytest.fixture
def desk(desk_done: Path, tmp_path: Path) -> Iterator[agentkd.Workspace]:
    """Return a copy of that workspace, opened, which a test may change."""
    folder = Path(shutil.copytree(desk_done, tmp_path / "desk"))
    with agentkd.Workspace(folder, settings=DESK, plugins=[Plugin(kept="grey")]) as workspace:
        yield workspace
