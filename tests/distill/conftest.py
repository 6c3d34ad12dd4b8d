from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentkd.agents import PromptBuilder
from agentkd.config import Settings
from agentkd.embedders.hashing import HashingEmbedder
from agentkd.errors import ConfigError
from agentkd.protocols import SilentProgress
from agentkd.schema import Correction, Message, Outcome, Reply, Step, Task, ToolCall, ToolResult, Trajectory


class Lines(SilentProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


class Answers:
    """A model that gives the answers of a function and remembers what it was asked."""

    name = "answers"

    def __init__(self, answer: Callable[[int, list[Message]], str]) -> None:
        self._answer = answer
        self.asked: list[tuple[list[Message], dict[str, Any]]] = []

    def reply(self, messages, tools=(), **sampling):
        self.asked.append((list(messages), sampling))
        return Reply(text=self._answer(len(self.asked) - 1, list(messages)))


class FakeKit:
    def __init__(self, model: Any = None, actor: Any = None, suites: Any = (), **settings: Any) -> None:
        self.settings = Settings.model_validate(settings)
        self.cache_dir = Path("unused")
        self.progress = Lines()
        self._models = {
            role: filled for role, filled in {"distiller": model, "actor": actor}.items() if filled
        }
        self._suites = {suite.name: suite for suite in suites}

    def model(self, role: str) -> Any:
        if role not in self._models:
            raise ConfigError(f"no model plays the role `{role}`")
        return self._models[role]

    def suite(self, name: str) -> Any:
        if name not in self._suites:
            raise ConfigError(f"there is no suite `{name}`")
        return self._suites[name]

    def embedder(self) -> HashingEmbedder:
        return HashingEmbedder()

    def views(self) -> PromptBuilder:
        return PromptBuilder(self.settings.agent)


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


def trajectory(
    name: str = "t1",
    prompt: str = "Find a table for 2 in 'Oslo'",
    calls: tuple[ToolCall, ...] = (),
    success: bool | None = True,
    **more: Any,
) -> Trajectory:
    steps = tuple(
        Step(
            index=i,
            reply=Message(role="assistant", tool_calls=(c,), origin="model"),
            accepted_calls=(c,),
            results=(ToolResult(content=f"result {i}"),),
        )
        for i, c in enumerate(calls)
    )
    task = Task(
        id=more.pop("task", name),
        suite=more.pop("suite", "shop"),
        prompt=prompt,
        split=more.pop("split", "train"),
    )
    outcome = None if success is None else Outcome(success=success, reward=float(success), grader="exact")
    more = {"steps": steps, "messages": (), **more}
    return Trajectory(id=name, run_id="r", task=task, outcome=outcome, **more)


def correction(of: Trajectory, text: str = "no", **more: Any) -> Correction:
    return Correction(id=f"cor-{of.id}-{text}", trajectory_id=of.id, text=text, **more)


@pytest.fixture
def make():
    """Give the builders of this folder's tests."""

    class Make:
        pass

    for builder in (call, trajectory, correction, FakeKit, Answers):
        setattr(Make, builder.__name__.lower().replace("fakekit", "kit"), staticmethod(builder))
    return Make
