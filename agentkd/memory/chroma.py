"""The door to Chroma: connect, name, make and drop collections; refuse those that bring code along.

A stored configuration may name an embedding function, which Chroma would build and run; ours name none,
so a collection that does was not made by us and is refused.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from agentkd.errors import AgentkdError, ConfigError, MissingExtraError, StoreError
from agentkd.memory.lock import IndexLock

if TYPE_CHECKING:
    from agentkd.memory.index_chroma import ChromaSettings

__all__ = ["Chroma", "is_gone"]

_PAGE = 200  # collections per listing


class Chroma:
    """A client of one server or one embedded folder; an embedded folder is locked for this process."""

    def __init__(self, settings: ChromaSettings, path: Path | None) -> None:
        """Connect; raises LockedError where another process has the folder, StoreError where it fails."""
        self.where = settings.url or str(path)
        self.is_server = bool(settings.url)
        self.connection = 0
        """Number of the client: collections of an earlier one are of no use."""
        self._lock = None if settings.url or path is None else IndexLock(path / ".lock")
        self._connect = partial(_connect, settings, path)
        self._guard = threading.RLock()
        self._client: Any = None
        self._is_closed = self._is_interrupted = False
        try:
            self.check()
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Raise StoreError where it is closed, LockedError in a forked child; connect after a failure."""
        if self._lock is not None:
            self._lock.check()
        if self._is_closed or self._is_interrupted:
            raise StoreError(f"the index `{self.where}` is closed", hint="open the workspace again")
        if self._client is None:
            with self._guard, self.translated():
                self._client = self._client or self._connect()

    def interrupt(self) -> None:
        """Refuse every further use but `close`: what works in the background ends."""
        self._is_interrupted = True

    def names(self, prefix: str) -> list[str]:
        """Return the names of the collections that begin so."""
        self.check()
        names: list[str] = []
        while True:
            found = [c.name for c in self._client.list_collections(limit=_PAGE, offset=len(names))]
            names += found
            if len(found) < _PAGE:
                return [name for name in names if name.startswith(prefix)]

    def make(
        self,
        name: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        graph: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return a collection, made where it is missing; one that is there keeps its own metadata."""
        self.check()
        configuration = {"hnsw": dict(graph)} if graph else None
        self._client.get_or_create_collection(
            name, embedding_function=None, metadata=metadata, configuration=configuration
        )
        return self.collection(name)

    def collection(self, name: str) -> Any:
        """Return a collection; raises StoreError for one that names an embedding function."""
        self.check()
        collection = self._client.get_collection(name, embedding_function=None)
        schema = getattr(getattr(collection, "_model", None), "serialized_schema", None)
        for function in _embedding_functions([collection.configuration_json, schema]):
            if function.get("type") not in ("legacy", "unknown") or "name" in function:
                raise StoreError(
                    f"collection `{name}` in `{self.where}` names the embedding function "
                    f"`{function.get('name', 'unknown')}`, which Chroma would run; agentkd made no such one",
                    hint="delete the index folder: it is rebuilt from the ledger",
                    collection=name,
                )
        return collection

    def drop(self, names: Iterable[str]) -> None:
        """Delete collections, markers first: what lost its marker half-way is dropped by the next owner."""
        self.check()
        for name in sorted(names, key=lambda name: (not name.endswith("-meta"), name)):
            try:
                self._client.delete_collection(name)
            except Exception as error:
                if not is_gone(error):  # another client of the server was faster
                    raise

    def close(self) -> None:
        """Release files and lock; safe to call twice."""
        self._is_closed = True
        try:
            self._disconnect()
        finally:
            if self._lock is not None:
                self._lock.release()

    def _disconnect(self) -> None:
        with self._guard:
            client, self._client = self._client, None
            self.connection += 1
        if client is not None:
            client.close()

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn what Chroma raises into StoreError with the way out.

        An embedded client whose disk has failed keeps the failed transaction open, and its next write waits
        for ever, with the interpreter's lock in its hand: it is thrown away.
        """
        try:
            yield
        except AgentkdError:
            raise
        except Exception as error:  # Chroma raises its own, pydantic's, httpx's and the bindings' classes
            hint = "is the server up?" if self.is_server else "`agentkd doctor --repair` makes it anew"
            if not self.is_server and type(error).__name__ == "InternalError":
                hint = f"see to the disk, or {hint}"
                with suppress(Exception):
                    self._disconnect()
            first = str(error).partition("\n")[0]
            raise StoreError(
                f"the index `{self.where}` refused: {type(error).__name__}: {first}", hint=hint
            ) from error


def is_gone(error: BaseException) -> bool:
    """Whether Chroma says that a collection is not there, in its own words or in ours."""
    return any(type(part).__name__ == "NotFoundError" for part in (error, error.__cause__))


def _connect(settings: ChromaSettings, path: Path | None) -> Any:
    try:
        import chromadb
        from chromadb.config import Settings
    except ImportError as error:
        raise MissingExtraError.of("chromadb", "all", "the index `chroma`") from error
    if not settings.url:
        if path is None:
            raise ConfigError("an embedded index needs a folder", hint="pass `path`, or set `url`")
        folder = str(path / "chroma")
        try:
            return chromadb.PersistentClient(folder, settings=Settings(anonymized_telemetry=False))
        except BaseException:
            _forget(folder)
            raise
    address = urlsplit(settings.url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ConfigError(f"`{settings.url}` is no address", hint="write http://host:port", key="url")
    token = os.environ.get(settings.token_env, "") if settings.token_env else ""
    if settings.token_env and not token:
        raise ConfigError(f"the environment variable `{settings.token_env}` is empty", key="token_env")
    is_tls = address.scheme == "https"
    return chromadb.HttpClient(
        host=address.hostname,
        port=address.port or (443 if is_tls else 8000),
        ssl=is_tls,
        headers={"Authorization": f"Bearer {token}"} if token else None,
        settings=Settings(anonymized_telemetry=False),
    )


def _forget(folder: str) -> None:
    """Let the next open start anew: Chroma keeps what failed to start, and would hand it out again."""
    from chromadb.api.shared_system_client import SharedSystemClient

    SharedSystemClient._identifier_to_system.pop(folder, None)


def _embedding_functions(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every embedding function that a stored configuration names, however deep."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "embedding_function" and isinstance(value, dict):
                yield value
            else:
                yield from _embedding_functions(value)
    elif isinstance(node, list):
        for value in node:
            yield from _embedding_functions(value)
