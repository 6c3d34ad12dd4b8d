"""The small world of the soaks: forms to stamp, graded by a rule, so that a tiny student is promoted.

A plugin, named in the settings that `settings` returns: `[plugins] modules = ["soak_desk"]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import agentkd
from agentkd.plugins import NoSettings
from agentkd.schema import Outcome, ToolCall, ToolSpec, Trajectory
from agentkd.testing import FakeSuite, tiny_student

N_TRAIN, N_HELD_OUT = 12, 10
COLOURS = ("red", "blue", "green", "black", "white", "amber", "pink", "grey", "gold", "teal", "lime", "navy")
TOOL = ToolSpec(
    name="stamp",
    description="Stamp a form.",
    parameters={
        "type": "object",
        "properties": {"form": {"type": "string", "maxLength": 8}},
        "required": ["form"],
    },
)
SETTINGS = """\
[roles]
student = "{student}"

[plugins]
modules = ["soak_desk"]

[agent]
max_steps = 1
force_tool_call = true
recall = "start"

[models]
dtype = "float32"
device = "cpu"
max_new_tokens = 24

[run]
workers = 4

[memory]
embedder = "hashing"
index = "{index}"
min_score = 0.05

[train]
epochs = 2
tokens_per_step = 512
dtype = "float32"
device = "cpu"
save_every_seconds = 0.0

[train.objective.sft]
weight = 0.5

[train.objective.self-context]
top_k = 8

[evaluate]
bootstrap = 200

[place]
max_clusters = 0

[gate]
anchors = false
min_tasks = 5
max_dev_rise = 9.0
contamination = "off"
exports = []
row_checks = false

[cycle]
suite = "desk"
min_new_memories = 1
lease_seconds = {lease_seconds}
"""


class Desk(FakeSuite):
    """Asks for forms: the student gets three of four right, all that are held out, and the base none."""

    def __init__(self) -> None:
        """Make the requests."""

        def requests(verb: str, n: int) -> list[tuple[str, ToolCall]]:
            return [
                (f"{verb} the {colour} form", ToolCall(name="stamp", arguments={"form": colour}))
                for colour in COLOURS[:n]
            ]

        by_split = {"train": requests("Stamp", N_TRAIN), "holdout": requests("Please stamp", N_HELD_OUT)}
        super().__init__(by_split, tools=[TOOL], name="desk")

    def grade(self, trajectory: Trajectory) -> Outcome:
        """Grade by the rule."""
        number = int(trajectory.task.id.rpartition("-")[2])
        is_right = trajectory.task.id.startswith("holdout") or number % 4 != 1
        done = "@student" in trajectory.model and is_right
        return super().grade(trajectory).model_copy(update={"success": done, "reward": float(done)})


@agentkd.hookimpl
def components() -> Iterator[Any]:
    """Offer the desk."""
    yield agentkd.Component("suite", "desk", "Forms to stamp.", lambda settings, kit: Desk(), NoSettings)


def settings(world: Path, *, index: str = "chroma", lease_seconds: float = 60.0) -> str:
    """Return the text of an `agentkd.toml` over the desk and a tiny student in `world`."""
    student = tiny_student(world / "student")
    return SETTINGS.format(student=student, index=index, lease_seconds=lease_seconds)


def make_workspace(folder: Path, text: str) -> Path:
    """Make an empty workspace with these settings."""
    folder.mkdir(parents=True)
    (folder / "agentkd.toml").write_text(text, encoding="utf-8")
    return folder
