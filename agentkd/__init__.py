"""agentkd: agents that learn on the job.

Run an agent, keep what happened, distil it into memories, recall them when they help, and compile
what has proved itself into a LoRA student that is promoted only if it is measurably better.
Importing this package loads nothing heavy; names are resolved on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentkd.config import Settings, load_settings
    from agentkd.errors import AgentkdError
    from agentkd.hookspecs import hookimpl
    from agentkd.plugins import Component
    from agentkd.schema import (
        Correction,
        Hit,
        Memory,
        Outcome,
        Task,
        ToolCall,
        ToolResult,
        ToolSpec,
        Trajectory,
    )
    from agentkd.tools import tool
    from agentkd.workspace import Workspace

__version__ = "0.1.0"

_HOMES = {
    "AgentkdError": "agentkd.errors",
    "Component": "agentkd.plugins",
    "Correction": "agentkd.schema",
    "Hit": "agentkd.schema",
    "Memory": "agentkd.schema",
    "Outcome": "agentkd.schema",
    "Settings": "agentkd.config",
    "Task": "agentkd.schema",
    "ToolCall": "agentkd.schema",
    "ToolResult": "agentkd.schema",
    "ToolSpec": "agentkd.schema",
    "Trajectory": "agentkd.schema",
    "Workspace": "agentkd.workspace",
    "hookimpl": "agentkd.hookspecs",
    "load_settings": "agentkd.config",
    "tool": "agentkd.tools",
}

__all__ = [
    "AgentkdError",
    "Component",
    "Correction",
    "Hit",
    "Memory",
    "Outcome",
    "Settings",
    "Task",
    "ToolCall",
    "ToolResult",
    "ToolSpec",
    "Trajectory",
    "Workspace",
    "hookimpl",
    "load_settings",
    "tool",
]


def __getattr__(name: str) -> Any:
    """Resolve a public name on first use (PEP 562)."""
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module `agentkd` has no attribute `{name}`")


def __dir__() -> list[str]:
    """List the public names."""
    return [*__all__, "__version__"]
