"""A command line that runs in this process, and a workspace that it has worked on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentkd.cli import main
from agentkd.cli.proof import write_tasks
from agentkd.testing import tiny_student

SETTINGS = """\
[roles]
student = "{student}"
actor = "scripted:clerk"

[agent]
force_tool_call = true
max_steps = 1
recall = "off"

[memory]
embedder = "hashing"
index = "exact"
min_score = 0.05

[cycle]
suite = "jsonl"

[suite.jsonl]
path = "{tasks}"

[model.scripted]
answers = ['{{"name": "set_lamp", "arguments": {{"colour": "red"}}}}']

[plugins]
auto = false
"""


@dataclass(frozen=True)
class Done:
    """What a command printed and returned."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Done]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run the command line and return what it did."""
    monkeypatch.delenv("AGENTKD_WORKSPACE", raising=False)

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a workspace whose actor always says red where blue was right: run, distilled and compiled."""
    folder = tmp_path_factory.mktemp("shop")
    write_tasks(folder / "tasks.jsonl")
    student = tiny_student(folder / "base")
    text = SETTINGS.format(student=student, tasks=folder / "tasks.jsonl")
    root = folder / "workspace"
    root.mkdir()
    (root / "agentkd.toml").write_text(text, encoding="utf-8")
    for command in (["run", "-n", "12"], ["distill"], ["compile"]):
        assert main(["-C", str(root), "-q", *command]) == 0
    return root
