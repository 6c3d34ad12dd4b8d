"""GRAPH: memory inside other people's LangGraph: a store, two nodes, and middleware for `create_agent`.

Names are resolved on first use: importing this package loads neither langgraph nor langchain.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentkd.graph.middleware import AgentkdMiddleware
    from agentkd.graph.recall import recall_node
    from agentkd.graph.record import record_node
    from agentkd.graph.review import apply_decisions
    from agentkd.graph.store import AgentkdStore

_HOMES = {
    "AgentkdMiddleware": "agentkd.graph.middleware",
    "AgentkdStore": "agentkd.graph.store",
    "apply_decisions": "agentkd.graph.review",
    "recall_node": "agentkd.graph.recall",
    "record_node": "agentkd.graph.record",
}

__all__ = [
    "AgentkdMiddleware",
    "AgentkdStore",
    "apply_decisions",
    "recall_node",
    "record_node",
]


def __getattr__(name: str) -> Any:
    """Resolve a public name on first use (PEP 562)."""
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module `agentkd.graph` has no attribute `{name}`")


def __dir__() -> list[str]:
    """List the public names."""
    return list(__all__)
