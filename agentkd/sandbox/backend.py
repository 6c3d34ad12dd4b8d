"""What the sandboxes have in common: settings, and no program that cannot be confined is run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from agentkd.errors import ConfigError
from agentkd.protocols import Ran
from agentkd.sandbox.limits import SandboxSettings

__all__ = ["Backend"]


class Backend(ABC):
    """A way to confine a program on this machine."""

    name: ClassVar[str]

    def __init__(self, settings: SandboxSettings | None = None) -> None:
        self._settings = settings or SandboxSettings()

    @abstractmethod
    def why_not(self) -> str:
        """Return why it does not work here; empty where it does."""

    @abstractmethod
    def _confined(self, code: str) -> Ran:
        """Run a program where it can be confined."""

    def run(self, code: str) -> Ran:
        """Run a program; raises ConfigError where it cannot be confined here."""
        if why := self.why_not():
            raise ConfigError(f"the sandbox `{self.name}` does not work here: {why}")
        return self._confined(code)
