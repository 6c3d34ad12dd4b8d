"""Keep the state of running agents, so that a run survives a kill or waits for a person.

A checkpoint is data: LangGraph's reader may build nothing but our own `Run` (strict msgpack).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from agentkd.errors import StoreError

if TYPE_CHECKING:
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.checkpoint.sqlite import SqliteSaver

__all__ = ["memory_checkpointer", "open_checkpointer", "require_strict_reader"]

ALLOWED = [("agentkd.agents.state", "Run")]


def require_strict_reader() -> None:
    """Tell LangGraph, before it is imported, to build only allowed types from a checkpoint."""
    os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")


def open_checkpointer(path: str | Path) -> SqliteSaver:
    """Open a checkpointer in an SQLite file; it may be used from several threads.

    A waiting run is kept as it is, secrets included, because it must go on as it was: only the owner may
    read the file, and what a finished run left in it is overwritten.
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
        saver = SqliteSaver(connection, serde=JsonPlusSerializer(allowed_msgpack_modules=ALLOWED))
        saver.setup()
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"`{file}` cannot hold the state of agents: {error}", hint="name a file in a folder you may write"
        ) from error
    return saver


def memory_checkpointer() -> InMemorySaver:
    """Return a checkpointer that lives as long as the process."""
    require_strict_reader()
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    return InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=ALLOWED))
