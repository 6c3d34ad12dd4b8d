"""A suite may suggest settings; whatever a person says overrules them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import agentkd


@agentkd.hookimpl
def components() -> Iterable[agentkd.Component]:
    suggests = {"train": {"epochs": 7, "seed": 3}, "agent": {"max_steps": 1}}
    yield agentkd.Component("suite", "short", "Short tasks.", lambda s, kit: None, suggests=suggests)


def open_with(tmp_path: Path, monkeypatch, **settings):  # type: ignore[no-untyped-def]
    module = ModuleType("short_suite")
    module.components = components  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "short_suite", module)
    (tmp_path / "agentkd.toml").write_text(
        '[plugins]\nmodules = ["short_suite"]\n[cycle]\nsuite = "short"\n[train]\nepochs = 2\n'
    )
    return agentkd.Workspace(tmp_path, settings=settings)


def test_a_chosen_suite_suggests_and_the_file_overrules(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    with open_with(tmp_path, monkeypatch) as workspace:
        assert workspace.settings.agent.max_steps == 1
        assert workspace.settings.train.seed == 3
        assert workspace.settings.train.epochs == 2


def test_another_suite_leaves_the_defaults(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    with open_with(tmp_path, monkeypatch, cycle={"suite": "jsonl"}) as workspace:
        assert workspace.settings.agent.max_steps == agentkd.Settings().agent.max_steps
        assert workspace.settings.train.seed == 0
