"""Importing is free: no heavy package at import, and help costs little more than its libraries."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from .conftest import ROOT

HEAVY = {
    "torch", "transformers", "peft", "chromadb", "litellm", "langgraph", "onnxruntime", "sqlalchemy",
    "llguidance", "gguf", "langchain", "tantivy",
}  # fmt: skip
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def imported_by(*arguments: str) -> set[str]:
    """Return the top-level packages that a Python process imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if "import time:" in line]
    return {line.partition(".")[0] for line in lines}


@pytest.mark.parametrize(
    "arguments",
    [
        ("-c", "import agentkd"),
        ("-c", "import agentkd.builtins"),
        ("-c", "import agentkd; agentkd.Workspace"),
        ("-c", "import agentkd.testing"),
        ("-m", "agentkd.cli", "--help"),
        ("-m", "agentkd.cli", "cycle", "--help"),
        ("-m", "agentkd.cli", "plugins", "list"),
        ("-m", "agentkd.cli", "config", "show"),
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_imported(arguments: tuple[str, ...]) -> None:
    assert imported_by(*arguments) & HEAVY == set()


def cpu_seconds(*arguments: str) -> float:
    """Return the processor time that a Python process takes."""
    before = os.times()
    subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, check=True
    )
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


BARE = "import click, pluggy, pydantic; type('M', (pydantic.BaseModel,), {'__annotations__': {'n': int}})"
"""What a command line with plugins and settings of pydantic cannot go without: this machine's speed."""


def test_help_takes_little_more_processor_time_than_the_libraries_it_stands_on() -> None:
    ours: list[float] = []
    bare: list[float] = []
    while len(ours) < 6 and min(ours, default=1.0) >= 1.6 * min(bare, default=0.0):
        bare.append(cpu_seconds("-c", BARE))  # taken in turns: a busy machine adds to some tries, not to all
        ours.append(cpu_seconds("-m", "agentkd.cli", "--help"))
    assert min(ours) < 1.6 * min(bare), (
        f"`agentkd --help` took these CPU seconds: {ours}; its libraries alone: {bare}"
    )
