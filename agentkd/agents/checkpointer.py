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

__all__ = [
    "clean_checkpointer",
    "memory_checkpointer",
    "open_checkpointer",
    "require_strict_reader",
    "strict",
]

ALLOWED = [("agentkd.agents.state", "Run")]
PLAIN = ("bytearray", "bytes", "msgpack", "null")
"""Ways in which LangGraph stores a value that are data; `json` and `pickle` can name what is to be built."""


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

    from langgraph.checkpoint.sqlite import SqliteSaver

    file = Path(path).expanduser()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(file, check_same_thread=False)
        connection.execute("PRAGMA secure_delete=ON")
        saver = SqliteSaver(connection, serde=clean_serializer(_strict_serializer(), redact))
        saver.setup()
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"`{file}` cannot hold the state of agents: {error}", hint="name a file in a folder you may write"
        ) from error
    return saver


def clean_checkpointer(checkpointer: Any, redact: Callable[[str], str]) -> Any:
    """Return a LangGraph checkpointer that reads strictly and redacts states before it stores them.

    One that keeps states in this process alone stores nothing and is returned as it is; so is None.
    """
    if checkpointer is None:
        return None
    require_strict_reader()
    from langgraph.checkpoint.memory import InMemorySaver

    checkpointer = strict(checkpointer)
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
    if _is_strict(serde):
        return checkpointer
    if isinstance(serde, EncryptedSerializer):
        strict_serde = EncryptedSerializer(serde.cipher, _strict_serializer())
    elif isinstance(serde, JsonPlusSerializer):
        strict_serde = _strict_serializer()
    if strict_serde is None:
        return checkpointer
    clone = copy.copy(checkpointer)
    clone.serde = strict_serde
    return clone


def _is_strict(serde: Any) -> bool:
    inner = getattr(serde, "serde", None)
    return getattr(serde, "is_strict", False) or (inner is not None and _is_strict(inner))


def _strict_serializer() -> Any:
    """Return a serializer that reads msgpack with an allow-list: no pickle, no JSON that names classes."""
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    class StrictSerializer(JsonPlusSerializer):
        is_strict = True

        def loads_typed(self, data: tuple[str, bytes]) -> Any:
            if data[0] not in PLAIN:
                raise StoreError(
                    f"the state of a run is stored as `{data[0]}`, which can build any object",
                    hint="agentkd wrote no such state: delete the checkpointer's file",
                )
            return super().loads_typed(data)

    return StrictSerializer(allowed_msgpack_modules=ALLOWED)
