"""What one call of the command line knows: workspace folder, settings from `--set`, and how to print."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from agentkd.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from agentkd.config import Settings
    from agentkd.plugins import PluginHost
    from agentkd.protocols import Progress
    from agentkd.workspace import Workspace

__all__ = ["Invocation", "pass_invocation", "stdout_console"]

T = TypeVar("T")
_WIDTH_WITHOUT_TERMINAL = 200  # a pipe has no width: never cut an id there


def stdout_console() -> Console:
    """Return a console on stdout: no colour and no cut lines where stdout is not a terminal."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL
    return Console(width=width, highlight=False, emoji=False)


@dataclass
class Invocation:
    """State of one call; options fill it before and after the command's name."""

    root: Path = field(default_factory=Path)
    """Folder of the workspace."""
    assignments: list[str] = field(default_factory=list)
    """`a.b=c` texts of `--set`."""
    is_json: bool = False
    """Print the value as JSON, and nothing else on stdout."""
    is_quiet: bool = False
    """Print no progress and no notes."""
    is_debug: bool = False
    """Show the traceback of an error."""
    has_shown: bool = False
    """Whether a value was printed: what fails afterwards is told on stderr alone."""

    def settings(self) -> Settings:
        """Return the settings of the folder; defaults where it holds no `agentkd.toml`."""
        return self._open_host()[0]

    def _open_host(self) -> tuple[Settings, PluginHost]:
        from agentkd.config import load_settings
        from agentkd.plugins import open_host

        return open_host(
            lambda suggested: load_settings(self.root, assignments=self.assignments, suggested=suggested)
        )

    def workspace(self) -> Workspace:
        """Open the workspace; raises ConfigError where the folder is none."""
        self.require_workspace()
        from agentkd.workspace import Workspace

        return Workspace(self.root, assignments=self.assignments, progress=self.progress())

    def require_workspace(self) -> None:
        """Raise ConfigError where the folder is no workspace."""
        if not any((self.root / name).is_file() for name in ("agentkd.toml", "ledger.db")):
            raise ConfigError(
                f"`{self.root.resolve()}` is no workspace",
                hint="run `agentkd init` there, or name another folder with -C",
                path=str(self.root),
            )

    def plugin_host(self, *, with_builtins: bool = True) -> PluginHost:
        """Load the plugins that a workspace with these settings would load.

        The built-in one offers components and no commands: a caller who wants commands spares its import.
        """
        if with_builtins:
            return self._open_host()[1]
        from agentkd.config import load_plugin_settings
        from agentkd.plugins import PluginHost

        chosen = load_plugin_settings(self.root, assignments=self.assignments)
        return PluginHost.chosen(chosen, block=("builtins",))

    def progress(self) -> Progress:
        """Return progress on stderr, or silence after `--quiet`."""
        if self.is_quiet:
            from agentkd.protocols import SilentProgress

            return SilentProgress()
        from agentkd.cli.progress import RichProgress

        return RichProgress()

    def note(self, line: str) -> None:
        """Print one line for people on stderr; silent after `--quiet`."""
        if line and not self.is_quiet:
            click.echo(line, err=True)

    def note_hidden(self, n_shown: int, n: int) -> None:
        """Say that `-n` cut a list of `n`; nothing where it did not."""
        if n_shown < n:
            self.note(f"the newest {n_shown} of {n} are shown: `-n 0` shows all")

    def show(self, value: T, render: Callable[[T, Console], None]) -> None:
        """Print a value: as JSON after `--json`, else by `render` on a console."""
        self.has_shown = True
        if self.is_json:
            click.echo(to_json(value))
        else:
            render(value, stdout_console())


def to_json(value: Any) -> str:
    """Render any value (pydantic, dataclass, path, list, dict) as indented JSON."""
    from pydantic import TypeAdapter

    return TypeAdapter(Any).dump_json(value, indent=2).decode()


pass_invocation = click.make_pass_decorator(Invocation, ensure=True)
