"""The command line: every command wraps one `Workspace` method; heavy modules load when a command runs."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; `arguments` default to those of the process."""
    from agentkd.cli.root import run_command_line

    return run_command_line(arguments)
