"""Keep the state of running agents, so that a run survives a kill or waits for a person.

A checkpoint is data: LangGraph's reader may build nothing but our own `Run` (strict msgpack).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentkd.agents.serializer import clean_serializer, is_clean_serializer
from agentkd.errors import StoreError

if TYPE_CHECKING:
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.checkpoint.sqlite import SqliteSaver

__all__ = ["clean_checkpointer", "memory_checkpointer", "open_checkpointer", "require_strict_reader"]

ALLOWED = [("agentkd.agents.state", "Run")]


def require_strict_reader() -> None:
    """Tell LangGraph, before it is imported, to build only allowed types from a checkpoint."""
    os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")


def open_checkpointer(path: str | Path, redact: Callable[[str], str] | None = None) -> SqliteSaver:
    """Open a checkpointer in an SQLite file; it may be used from several threads.

    Secrets are redacted before they reach the file (by the core's detectors, or by `redact`). This process
    goes on with what was really said; after a restart the placeholder is all there is, and a call that holds
    one is not run. Only the owner may read the file, and what a finished run left in it is overwritten.
    """
    require_strict_reader()
    import sqlite3

    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
    from langgraph.checkpoint.sqlite import SqliteSaver

    file = Path(path).expanduser()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(file, check_same_thread=False)
        connection.execute("PRAGMA secure_delete=ON")
        serde = clean_serializer(JsonPlusSerializer(allowed_msgpack_modules=ALLOWED), redact)
        saver = SqliteSaver(connection, serde=serde)
        saver.setup()
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"`{file}` cannot hold the state of agents: {error}", hint="name a file in a folder you may write"
        ) from error
    return saver


def clean_checkpointer(checkpointer: Any, redact: Callable[[str], str]) -> Any:
    """Return a LangGraph checkpointer whose states are redacted before it stores them.

    One that keeps states in this process alone stores nothing and is returned as it is; so is None.
    """
    if checkpointer is None:
        return None
    require_strict_reader()
    from langgraph.checkpoint.memory import InMemorySaver

    serde = getattr(checkpointer, "serde", None)
    if serde is None or isinstance(checkpointer, InMemorySaver) or is_clean_serializer(serde):
        return checkpointer
    cleaned = copy.copy(checkpointer)  # the application may use its own elsewhere
    cleaned.serde = clean_serializer(serde, redact)
    return cleaned


def memory_checkpointer() -> InMemorySaver:
    """Return a checkpointer that lives as long as the process."""
    require_strict_reader()
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    return InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=ALLOWED))
