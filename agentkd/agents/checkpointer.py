"""Keep the state of running agents, so that a run survives a kill or waits for a person.

A checkpoint is data: LangGraph's reader may build nothing but our own `Run` (strict msgpack).
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentkd.errors import StoreError

if TYPE_CHECKING:
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.checkpoint.sqlite import SqliteSaver

__all__ = ["memory_checkpointer", "open_checkpointer", "require_strict_reader", "strict"]

ALLOWED = [("agentkd.agents.state", "Run")]
PLAIN = ("bytearray", "bytes", "msgpack", "null")
"""Ways in which LangGraph stores a value that are data; `json` and `pickle` can name what is to be built."""


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

    from langgraph.checkpoint.sqlite import SqliteSaver

    file = Path(path).expanduser()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(file, check_same_thread=False)
        connection.execute("PRAGMA secure_delete=ON")
        saver = SqliteSaver(connection, serde=_strict_serializer())
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

    return InMemorySaver(serde=_strict_serializer())


def strict(checkpointer: Any) -> Any:
    """Return a checkpointer whose reader builds nothing but our own `Run` and LangGraph's plain types.

    One with LangGraph's own serializer, encrypted or not, is copied with a strict one over the same store;
    one with a serializer of somebody else's is returned as it is.
    """
    from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    serde = getattr(checkpointer, "serde", None)
    strict_serde: Any = None
    if isinstance(serde, EncryptedSerializer):
        strict_serde = EncryptedSerializer(serde.cipher, _strict_serializer())
    elif isinstance(serde, JsonPlusSerializer):
        strict_serde = _strict_serializer()
    if strict_serde is None:
        return checkpointer
    clone = copy.copy(checkpointer)
    clone.serde = strict_serde
    return clone


def _strict_serializer() -> Any:
    """Return a serializer that reads msgpack with an allow-list: no pickle, no JSON that names classes."""
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    class StrictSerializer(JsonPlusSerializer):
        def loads_typed(self, data: tuple[str, bytes]) -> Any:
            if data[0] not in PLAIN:
                raise StoreError(
                    f"the state of a run is stored as `{data[0]}`, which can build any object",
                    hint="agentkd wrote no such state: delete the checkpointer's file",
                )
            return super().loads_typed(data)

    return StrictSerializer(allowed_msgpack_modules=ALLOWED)
