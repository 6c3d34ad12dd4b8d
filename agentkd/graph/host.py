"""What the store, the nodes and the middleware need of a workspace, and nothing more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from agentkd.errors import ConfigError

if TYPE_CHECKING:
    from agentkd.config import Settings
    from agentkd.ledger import Ledger
    from agentkd.memory import MemoryStore
    from agentkd.plugins import Hooks

__all__ = ["Host", "check_host"]


@runtime_checkable
class Host(Protocol):
    """A workspace, or any object with these four parts."""

    @property
    def ledger(self) -> Ledger:
        """The system of record."""

    @property
    def memory(self) -> MemoryStore:
        """The memories."""

    @property
    def hooks(self) -> Hooks:
        """Typed hook calls."""

    @property
    def settings(self) -> Settings:
        """Settings in force."""


def check_host(host: object) -> None:
    """Raise ConfigError where an object is no workspace; builds none of its parts."""
    parts, own = ("ledger", "memory", "hooks", "settings"), getattr(host, "__dict__", {})
    missing = [name for name in parts if name not in own and not hasattr(type(host), name)]
    if missing:
        raise ConfigError(
            f"a {type(host).__name__} is no workspace: it has no `{missing[0]}`",
            hint="pass an `agentkd.Workspace`",
        )
