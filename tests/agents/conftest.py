"""A real ledger, and a function that makes agents over it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentkd.agents import Agent, PromptBuilder, Recorder
from agentkd.config import AgentSettings
from agentkd.ledger import Ledger
from agentkd.models.scripted import ScriptedModel
from agentkd.plugins import PluginHost
from agentkd.schema import Task
from agentkd.tools import ToolBox

sys.path.insert(0, str(Path(__file__).parent))  # test files share `agent_parts`

from agent_parts import Build, add, refund


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "ledger.db") as opened:
        yield opened


@pytest.fixture
def host() -> PluginHost:
    return PluginHost(auto=False)


@pytest.fixture
def build(ledger: Ledger, host: PluginHost) -> Build:
    """Return a function that makes an agent from a script and options."""

    def make(script: Any, *, world: Callable[[Task], Any] | None = None, **options: Any) -> Agent:
        settings = AgentSettings(**options.pop("agent", {}))
        return Agent(
            name="tester",
            model=script if hasattr(script, "reply") else ScriptedModel(script),
            environment=world or (lambda task: ToolBox([add, refund])),
            views=options.pop("views", PromptBuilder(settings)),
            settings=settings,
            recorder=Recorder(ledger, host.hooks),
            hooks=host.hooks,
            **options,
        )

    return make
