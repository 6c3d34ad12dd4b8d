"""`agentkd`: the root command, which imports a subcommand's module when it is called, and error lines."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import click

from agentkd import __version__
from agentkd.cli.invocation import Invocation, to_json
from agentkd.cli.shared import global_options
from agentkd.errors import AgentkdError, DataError, PluginError, of_the_system

__all__ = ["COMMANDS", "LazyGroup", "root", "run_command_line"]


class _Lazy(NamedTuple):
    summary: str
    name: str = "command"


COMMANDS: dict[str, _Lazy] = {
    "init": _Lazy("Create a workspace."),
    "run": _Lazy("Run the agent over a suite and keep what happened."),
    "correct": _Lazy("Correct a trajectory, in words or with the right call or answer."),
    "distill": _Lazy("Turn trajectories and corrections into memories."),
    "synthesize": _Lazy("Assess the student and let a teacher write what it lacks."),
    "compile": _Lazy("Compile memories and trajectories into a dataset."),
    "train": _Lazy("Train a LoRA student on a dataset."),
    "evaluate": _Lazy("Compare the arms on held-out tasks, pair by pair."),
    "gate": _Lazy("Judge a candidate as a cycle would, or say how many tasks that needs."),
    "cycle": _Lazy("Go through all phases: run, distill, compile, train, evaluate, promote."),
    "stop": _Lazy("Stop a workspace: no process in it asks a model or runs a tool until it is let go on."),
    "report": _Lazy("Show the report of a cycle."),
    "memory": _Lazy("Look at, search, rebuild and revoke memories."),
    "skills": _Lazy("List skills, add skills from archives, and make skills of strong memories."),
    "runs": _Lazy("Look at runs and their trajectories."),
    "datasets": _Lazy("Look at datasets, with their trained tokens."),
    "checkpoints": _Lazy("Look at students; promote one or roll back."),
    "models": _Lazy("Fetch models into the cache and list them."),
    "plugins": _Lazy("List plugins and their components."),
    "config": _Lazy("Show the settings, their file and their schema."),
    "lineage": _Lazy("Trace what a fact was made from and what was made from it."),
    "backup": _Lazy("Write the workspace of one moment into a folder, while it is used."),
    "restore": _Lazy("Put a backup into the workspace's folder."),
    "doctor": _Lazy("Prove on a scratch workspace that each stage works on this machine."),
    "docs": _Lazy("Write the reference parts of a Markdown file from the code."),
}
"""Commands in the order of the help, each with its summary: known before any module is imported."""


class LazyGroup(click.Group):
    """A group that imports a subcommand's module on demand and mounts the commands of plugins."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the built-in names in order, then those of plugins."""
        return [*COMMANDS, *sorted(self._offered(ctx))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a built-in command, else ask the plugins."""
        if cmd_name in COMMANDS:
            module = importlib.import_module(f"agentkd.cli.{cmd_name}")
            command: click.Command = getattr(module, COMMANDS[cmd_name].name)
            return command
        return self._offered(ctx).get(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown one is answered with the nearest known name."""
        from agentkd.plugins import nearest

        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            hint = nearest(name, self.list_commands(ctx))
            raise click.UsageError(f"no command is called `{name}` ({hint})", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the summaries without importing the commands; a broken plugin costs one line only."""
        rows = [(name, lazy.summary) for name, lazy in COMMANDS.items()]
        try:
            offered = self._offered(ctx)
        except AgentkdError as error:
            _print_error(str(error))
            offered = {}
        with formatter.section("Commands"):
            formatter.write_dl(rows)
        if offered:
            with formatter.section("Commands of plugins"):
                formatter.write_dl([(n, offered[n].get_short_help_str(80)) for n in sorted(offered)])

    def _offered(self, ctx: click.Context) -> dict[str, click.Command]:
        from agentkd import hookspecs

        homes = dict.fromkeys(COMMANDS, "agentkd")
        found: dict[str, click.Command] = {}
        host = ctx.ensure_object(Invocation).plugin_host(with_builtins=False)
        for plugin, command in host.hooks.offers(hookspecs.commands):
            name = getattr(command, "name", None)
            if not isinstance(command, click.Command) or not name:
                raise PluginError(
                    f"plugin `{plugin}` offered `{command!r}`, which is not a named click command",
                    plugin=plugin,
                )
            if name in homes:
                raise PluginError(
                    f"plugins `{homes[name]}` and `{plugin}` both offer the command `{name}`",
                    hint="switch one off with `[plugins] block`",
                    plugin=plugin,
                )
            homes[name] = plugin
            found[name] = command
        return found


@click.group(
    "agentkd",
    cls=LazyGroup,
    params=global_options(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", message="agentkd %(version)s")
def root() -> None:
    """Let an agent learn on the job.

    Run it, keep what happened, distil it into memories, recall them when they help, and compile
    what has proved itself into a LoRA student that is promoted only if it is measurably better.
    """


def run_command_line(arguments: Sequence[str] | None = None) -> int:
    """Run the root command and turn every error into one line on stderr and an exit code.

    After `--json` the error is on stdout, too, as `{"error": {...}}`, unless the command printed its value.
    Codes: 0 done, 1 a check failed or an unforeseen error, 2 usage or settings, 130 interrupted,
    else `exit_code` of the `AgentkdError` (see `agentkd.errors`).
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    invocation = Invocation()
    if folder := os.environ.get("AGENTKD_WORKSPACE"):
        invocation.root = type(invocation.root)(folder).expanduser()
    try:
        answer: Any = root.main(given, prog_name="agentkd", standalone_mode=False, obj=invocation)
        return answer if isinstance(answer, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        told = _Told("usage", "a command is missing", 2)
    except click.ClickException as error:
        told = _Told("usage", error.format_message(), error.exit_code)
        _print_error(told.message)
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(f"see `{error.ctx.command_path} --help`", err=True)
    except (click.Abort, KeyboardInterrupt):
        told = _Told("interrupted", "interrupted; the same command goes on from here", 130)
        click.echo(told.message, err=True)
    except Exception as error:
        if invocation.is_debug:
            raise
        told = _report(error)
    if (invocation.is_json or "--json" in given) and not invocation.has_shown:
        from agentkd.schema.text import mended

        click.echo(to_json({"error": mended(told._asdict())}))
    return told.exit_code


class _Told(NamedTuple):
    """An error as `--json` prints it."""

    type: str
    message: str
    exit_code: int
    hint: str = ""
    context: Mapping[str, Any] = {}


def _report(error: Exception) -> _Told:
    name, known = type(error).__name__, _as_known(error)
    if known is not None:
        _print_error(str(known))
        context = {key: _plain(value) for key, value in known.context.items()}
        return _Told(type(known).__name__, known.message, known.exit_code, known.hint, context)
    hint = "the same command with --debug shows where it happened"
    _print_error(f"unforeseen {name}: {error} ({hint})")
    return _Told(name, str(error), 1, hint)


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _as_known(error: Exception) -> AgentkdError | None:
    if isinstance(error, AgentkdError):
        return error
    if isinstance(error, UnicodeEncodeError):
        said = ascii(error.object[error.start : error.end])
        return DataError(f"{said} is no character that can be stored", hint="write the argument in UTF-8")
    return of_the_system(error)


def _print_error(message: str) -> None:
    from agentkd.schema.text import whole

    line = whole(" ".join(message.split()))
    colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    click.echo(click.style("error: ", fg="red", bold=True) + line if colour else f"error: {line}", err=True)
