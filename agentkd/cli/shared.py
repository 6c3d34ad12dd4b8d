"""The global options, and a command class that takes them after its own name too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from agentkd.cli.invocation import Invocation

__all__ = ["Command", "Group", "global_options", "newest_option"]

newest_option = click.option(
    "-n", "n", type=click.IntRange(min=0), default=50, show_default=True,
    help="The newest so many; 0 for all.",
)  # fmt: skip
"""How long a list may be; `Invocation.note_hidden` says what it left out."""


def _store(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    invocation = context.ensure_object(Invocation)
    if parameter.name == "workspace" and value is not None:
        invocation.root = Path(value).expanduser()
    elif parameter.name == "assignments":
        invocation.assignments.extend(value)
    elif value:
        setattr(invocation, f"is_{parameter.name}", True)


def global_options() -> list[click.Parameter]:
    """Return fresh options that fill the `Invocation`, wherever on the line they stand."""
    # Eager, so that a folder given before `--help` is known when the help asks the plugins.
    keywords: dict[str, Any] = {"expose_value": False, "callback": _store, "is_eager": True}
    return [
        click.Option(
            ["-C", "--workspace"],
            metavar="DIR",
            help="Folder of the workspace [default: here, or $AGENTKD_WORKSPACE].",
            **keywords,
        ),
        click.Option(
            ["--set", "assignments"],
            metavar="KEY=VALUE",
            multiple=True,
            help="Override a setting, such as `train.epochs=2`; repeatable.",
            **keywords,
        ),
        click.Option(["--json"], is_flag=True, help="Print the value as JSON and nothing else.", **keywords),
        click.Option(["-q", "--quiet"], is_flag=True, help="Print no progress and no notes.", **keywords),
        click.Option(["--debug"], is_flag=True, help="Show the traceback of an error.", **keywords),
    ]


class Command(click.Command):
    """A command that understands the global options; its help lists them apart from its own."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._shared = global_options()
        self.params = [*self.params, *self._shared]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options, then the global ones under their own heading."""
        own = [p.get_help_record(ctx) for p in self.get_params(ctx) if p not in self._shared]
        shared = [p.get_help_record(ctx) for p in self._shared]
        for title, records in (("Options", own), ("Global options", shared)):
            rows = [record for record in records if record is not None]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


class Group(click.Group):
    """A noun with verbs: `agentkd memory list`."""

    command_class = Command
    group_class = type
