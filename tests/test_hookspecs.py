"""Hooks: each can be implemented as its docstring shows, naming only the arguments it wants."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import click
import pytest

import agentkd
from agentkd import hookspecs
from agentkd.plugins import PluginHost
from agentkd.schema import (
    ArmResult,
    Correction,
    CycleReport,
    Evaluation,
    Example,
    Hit,
    Interval,
    Memory,
    Message,
    PhaseReport,
    Rendered,
    Step,
    Task,
    Trajectory,
)

HOOKS = [name for name in hookspecs.__all__ if name not in ("hookimpl", "hookspec")]

_TASK = Task(id="t-1", prompt="Where is my parcel? My credit card is 1.")
_STEP = Step(index=0, reply=Message(role="assistant", content="It is on its way."))
_MEMORY = Memory(id="mem-1", kind="fact", when_to_use="always", content="the password is x")
_RUN = Trajectory(id="tra-1", run_id="run-1", task=_TASK, steps=(_STEP,))
_ARM = ArmResult(name="student", n=1, success=Interval(value=1, low=0, high=1), seconds=9.0)

ARGUMENTS: dict[str, dict[str, Any]] = {
    "components": {},
    "commands": {},
    "skills": {},
    "find_secrets": {"text": "I am STAFF-123456"},
    "before_run": {"task": _TASK, "model": "m"},
    "rank_recalled": {"task": _TASK, "hits": [Hit(memory=_MEMORY, score=0.5)]},
    "after_step": {"trajectory": _RUN, "step": _STEP},
    "after_run": {"trajectory": _RUN},
    "after_correction": {"correction": Correction(id="cor-1", trajectory_id="tra-1", text="no, ask first")},
    "admit_memory": {"memory": _MEMORY},
    "retire_memory": {"memory": _MEMORY, "checkpoint": "student@1"},
    "is_compile_due": {"n_new_memories": 500, "n_new_trajectories": 1, "expected_gain": 0.0},
    "admit_example": {
        "example": Example(
            id="exa-1", kind="trajectory", task_id="t-1", group="internal", student_view=(),
            target=_STEP.reply, student=Rendered(ids=(1,), weights=(1.0,)),
        )
    },
    "judge_checkpoint": {
        "checkpoint": "student@1",
        "evaluation": Evaluation(id="e", suite="s", split="holdout", n=1, arms=(_ARM,)),
    },
    "after_promote": {"checkpoint": "student@2", "previous": "student@1"},
    "after_phase": {"report": PhaseReport(name="run", key="k", seconds=1.5)},
    "after_cycle": {"report": CycleReport(id="cycle-1", number=1, suite="s", serving="student@1")},
}  # fmt: skip

ANSWERS: dict[str, Any] = {
    "before_run": False,
    "rank_recalled": [],
    "admit_memory": False,
    "retire_memory": False,
    "is_compile_due": True,
    "admit_example": False,
    "judge_checkpoint": False,
}
PRINTED = {
    "after_step": "0 It is on its way.",
    "after_run": "tra-1 False",
    "after_correction": "no, ask first",
    "after_promote": "student@1 -> student@2",
    "after_phase": "run 1.5",
    "after_cycle": "student@1",
}


def plugin_from_docstring(hook: str) -> object:
    """Return a plugin object made of the `Example::` block of a hook's docstring."""
    text = inspect.getdoc(getattr(hookspecs, hook)) or ""
    code = textwrap.dedent(text.partition("Example::")[2])
    names: dict[str, Any] = {
        "agentkd": agentkd, "click": click, "re": re, "Path": Path, "__file__": __file__,
        "build": lambda settings, kit: None, "ChessSettings": agentkd.Settings,
    }  # fmt: skip
    exec(code, names)
    return type("Documented", (), {hook: staticmethod(names[hook])})()


def test_every_hook_has_arguments_here() -> None:
    assert sorted(ARGUMENTS) == sorted(HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_the_example_in_the_docstring_works(hook: str, capsys: pytest.CaptureFixture[str]) -> None:
    host = PluginHost(auto=False)
    host.add(plugin_from_docstring(hook), "documented")
    spec = getattr(hookspecs, hook)
    assert set(ARGUMENTS[hook]) == set(inspect.signature(spec).parameters)
    if hook in ("components", "commands", "skills"):
        offered = host.hooks.offers(spec)
        assert [owner for owner, _ in offered] == ["documented"]
    elif hook == "find_secrets":
        found = host.hooks.offers(spec, **ARGUMENTS[hook])
        assert found == [("documented", (5, 17, "staff-number"))]
    elif hook in PRINTED:
        host.hooks.ask(spec, **ARGUMENTS[hook])
        assert capsys.readouterr().out.strip() == PRINTED[hook]
    elif hook == "is_compile_due":
        assert host.hooks.decide(spec, **ARGUMENTS[hook]) is ANSWERS[hook]
    elif hook == "rank_recalled":
        assert host.hooks.ask(spec, **ARGUMENTS[hook]) == [ANSWERS[hook]]
    else:
        assert host.hooks.refusals(spec, **ARGUMENTS[hook]) == ["documented"]


def test_an_offered_component_is_registered() -> None:
    host = PluginHost(auto=False)
    host.add(plugin_from_docstring("components"), "documented")
    assert host.registry.names("suite") == ["chess"]
