"""The promise of a sandbox: it runs a program that nobody has read."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

from agentkd.schema import Value

__all__ = ["Ran", "Sandbox"]


class Ran(Value):
    """What became of a program."""

    output: str = ""
    """What it printed, errors included, cut at the limit."""
    exit_code: int = 0
    """Its exit code; negative where a signal ended it."""
    ended: Literal["exit", "timeout", "output"] = "exit"
    """Whether it ended by itself, or was ended at its limit of seconds or of output."""


@runtime_checkable
class Sandbox(Protocol):
    """Runs Python code with nothing but an empty folder of its own, which is gone afterwards.

    The code reads Python and the system's libraries and no other file, writes nothing outside of its folder,
    reaches no network and no other process, sees no environment variable of ours, and is held to limits on
    time, memory, processes, disk and output. What cannot be enforced must be refused, never left out.
    """

    name: str

    def why_not(self) -> str:
        """Return why it does not work on this machine; empty where it does."""

    def run(self, code: str) -> Ran:
        """Run a program and return what came of it; raises ConfigError where it cannot be confined here."""
