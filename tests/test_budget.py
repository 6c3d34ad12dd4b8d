"""A model that never stops is stopped: by a count, tokens, money, steps and a person, with 8 threads too."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import agentkd
from agentkd.cli import main
from agentkd.cli.machine import look_at_workspace
from agentkd.errors import BudgetError, CeilingError
from agentkd.models.scripted import ScriptedModel
from agentkd.protocols import Environment
from agentkd.schema import Message, Reply, Task, ToolCall, ToolSpec, Usage
from agentkd.stop import StopFile
from agentkd.testing import FakeSuite
from agentkd.tools import ToolBox

CAP, WORKERS = 50, 8


class Restless(ScriptedModel):
    """Calls a tool in every turn, for ever; claims to cost 10 tokens a call."""

    def __init__(self, after: Any = lambda n: None) -> None:
        super().__init__(self._say)
        self.n = 0
        self._after = after
        self._count = threading.Lock()

    def _say(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> Reply:
        with self._count:
            self.n += 1
            n = self.n
        time.sleep(0.002)  # so that all threads are in the middle of a call
        self._after(n)
        usage = Usage(prompt_tokens=5, completion_tokens=5, usd=0.01)
        return Reply(tool_calls=(ToolCall(name="lamp", arguments={"colour": "red"}),), usage=usage)

    def estimate(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), max_new_tokens: int | None = None
    ) -> Usage:
        return Usage(prompt_tokens=5, completion_tokens=5, usd=0.01)


@agentkd.tool
def lamp(colour: str) -> str:
    """Switch a lamp."""
    return f"it is {colour}"


class Endless(FakeSuite):
    """Sixteen tasks that never end by themselves."""

    def __init__(self) -> None:
        tasks = [(f"Lamp {n}!", "done") for n in range(16)]
        super().__init__({"train": tasks, "holdout": tasks}, name="endless")

    def environment(self, task: Task) -> Environment:
        return ToolBox([lamp])


class Offers:
    """A plugin with the restless model and the endless suite."""

    def __init__(self, model: Restless) -> None:
        self.model = model

    @agentkd.hookimpl
    def components(self) -> Any:
        yield agentkd.Component("model", "restless", "Never stops.", lambda settings, kit: self.model)
        yield agentkd.Component("suite", "endless", "Never ends.", lambda settings, kit: Endless())


def shop(root: Path, model: Restless, **models: Any) -> agentkd.Workspace:
    settings: dict[str, Any] = {
        "roles": {"actor": "restless"},
        "agent": {"max_steps": 10_000, "recall": "off"},
        "memory": {"embedder": "hashing", "index": "exact"},
        "run": {"workers": WORKERS},
        "models": models,
        "cycle": {"suite": "endless"},
    }
    return agentkd.Workspace(root, settings=settings, plugins=[Offers(model)])


@pytest.mark.parametrize(
    "cap", [{"max_calls": CAP}, {"max_tokens": 10 * CAP}, {"max_usd": 0.01 * CAP + 1e-9}]
)
def test_eight_threads_halt_at_the_cap(tmp_path: Path, cap: dict[str, Any]) -> None:
    model = Restless()
    with shop(tmp_path / "shop", model, **cap) as workspace:
        with pytest.raises(BudgetError, match=r"restless|scripted"):
            workspace.run()
        assert CAP - WORKERS < model.n <= CAP  # reserved before the call: never one over
        n = model.n
        with pytest.raises(BudgetError):
            workspace.agent().run("Lamp!")
        assert model.n - n <= 1


def test_a_model_of_ones_own_halts_at_the_cap_too(tmp_path: Path) -> None:
    model = Restless()
    with shop(tmp_path / "shop", Restless(), max_calls=3) as workspace:
        with pytest.raises(BudgetError, match="3 of 3 calls are made"):
            workspace.agent([lamp], model=model).run("Lamp!")
        assert (model.n, workspace.ledger.calls.total("run").calls) == (3, 3)


def test_a_run_ends_after_its_steps_and_a_turn_with_too_many_calls_runs_none(tmp_path: Path) -> None:
    ran: list[str] = []

    @agentkd.tool
    def lamp(colour: str) -> str:
        """Switch a lamp."""
        ran.append(colour)
        return colour

    with shop(tmp_path / "shop", Restless()) as workspace:
        workspace.parts.settings = workspace.settings.model_copy(
            update={"agent": workspace.settings.agent.model_copy(update={"max_steps": 7})}
        )
        run = workspace.agent([lamp]).run("Lamp!")
        assert run.failure is not None
        assert (run.failure.kind, len(run.steps), len(ran)) == ("limit", 7, 7)
        many = Reply(tool_calls=(ToolCall(name="lamp", arguments={"colour": "red"}),) * 33)
        run = workspace.agent([lamp], model=ScriptedModel([many])).run("Lamp!")
        assert run.failure is not None
        assert (run.failure.kind, len(ran)) == ("limit", 7)
        assert "33 calls in one turn, 32 are allowed" in run.failure.message


def test_a_file_stops_eight_threads(tmp_path: Path) -> None:
    root = tmp_path / "shop"
    model = Restless(lambda n: StopFile(root).set("too warm in here") if n == CAP else None)
    with shop(root, model) as workspace:
        with pytest.raises(CeilingError, match=r"too warm in here.*stop --off"):
            workspace.run()
        assert CAP <= model.n < CAP + WORKERS  # what was under way
        n = model.n
        for forbidden in (workspace.run, lambda: workspace.agent().run("Lamp!"), lambda: workspace.model()
                          .reply([Message(role="user", content="hi")])):  # fmt: skip
            with pytest.raises(CeilingError):
                forbidden()
        assert model.n == n
        report = workspace.cycle()
        assert "too warm in here" in report.stopped
        assert model.n == n


def test_no_tool_runs_once_the_workspace_is_stopped(tmp_path: Path) -> None:
    root, ran = tmp_path / "shop", []

    @agentkd.tool
    def lamp(colour: str) -> str:
        """Switch a lamp."""
        ran.append(colour)
        return colour

    with shop(root, Restless(lambda n: StopFile(root).set("") if n == 3 else None)) as workspace:
        with pytest.raises(CeilingError, match="somebody asked for it"):
            workspace.agent([lamp]).run("Lamp!")
    assert len(ran) == 2  # the third was asked for when the file was there


def test_the_command_stops_and_lets_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "shop"
    agentkd.Workspace.create(root).close()
    tasks = root / "tasks.jsonl"
    tasks.write_text('{"id": "t", "prompt": "hi", "split": "train", "answer": "done"}\n')
    told = ["--set", "roles.actor=scripted:clerk", "--set", 'model.scripted.answers=["done"]',
            "--set", f"suite.jsonl.path={tasks}", "--set", "memory.embedder=hashing",
            "--set", "memory.index=exact"]  # fmt: skip
    run = ["-q", "-C", str(root), *told, "run", "--suite", "jsonl"]
    assert main(["-C", str(root), "stop", "the", "budget", "is", "gone"]) == 0
    assert (root / "STOP").read_text() == "the budget is gone\n"
    checks = {check.name: check for check in look_at_workspace(root)}
    assert checks["kill switch"].detail == "the budget is gone"
    assert main(run) == 11
    assert "asked to stop (the budget is gone, until `agentkd stop --off`)" in capsys.readouterr().err
    assert main(["-C", str(root), "stop", "--off"]) == 0
    assert main(run) == 0
    assert main(["-C", str(tmp_path), "stop"]) == 2
