"""`agentkd docs`: write the reference parts of a Markdown file from what the code says of itself.

A part is what stands between `<!-- commands -->` and `<!-- /commands -->`, and so on for the other names.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from agentkd.cli.config import toml_value
from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.shared import Command
from agentkd.errors import AgentkdError, DataError
from agentkd.files import write_whole

__all__ = ["PARTS", "command", "filled"]


@click.command("docs", cls=Command)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--check", is_flag=True, help="Write nothing; exit code 1 where a part is out of date.")
@pass_invocation
def command(invocation: Invocation, file: Path, check: bool) -> int:
    """Write the reference parts of a Markdown file from the code."""
    old = file.read_text(encoding="utf-8")
    new = filled(old, invocation)
    names = [name for name in PARTS if f"<!-- {name} -->" in old]
    if not names:
        raise DataError(
            f"`{file}` has no reference part", hint=f"mark one: {', '.join(f'<!-- {n} -->' for n in PARTS)}"
        )
    is_stale = old != new
    if is_stale and not check:
        write_whole(file, new)
    word = ("out of date" if check else "written") if is_stale else "up to date"
    invocation.show({"parts": names, "state": word}, lambda v, _: click.echo(f"{', '.join(names)}: {word}"))
    return 1 if is_stale and check else 0


def filled(text: str, invocation: Invocation) -> str:
    """Return `text` with every marked part written anew."""
    for name, write in PARTS.items():
        found = re.search(rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", text, re.DOTALL)
        if found:
            body = "\n".join(write(invocation))
            text = f"{text[: found.start()]}\n{body}\n\n{text[found.end() :]}"
    return text


def _row(*cells: str) -> str:
    plain = (" ".join(cell.split()).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(plain)} |"


def _table(*columns: str) -> Iterator[str]:
    yield _row(*columns)
    yield f"|{'---|' * len(columns)}"


def _commands(invocation: Invocation) -> Iterator[str]:
    from agentkd.cli.root import COMMANDS, root

    yield from _table("command", "what it does")
    context = click.Context(root, obj=invocation)
    for name in COMMANDS:
        found = root.get_command(context, name)
        if isinstance(found, click.Group):
            for verb, child in found.commands.items():
                yield _row(f"`agentkd {name} {verb}`", _first_line(child.help))
        elif found is not None:
            yield _row(f"`agentkd {name}`", _first_line(found.help))


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


def _settings(invocation: Invocation) -> Iterator[str]:
    from agentkd.config import Settings

    yield from _table("key", "default", "meaning")
    yield from _settings_rows(Settings(), "")


def _settings_rows(settings: BaseModel, path: str) -> Iterator[str]:
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            yield from _settings_rows(value, f"{path}{name}.")
        else:
            default = "none" if value is None else f"`{toml_value(value)}`"
            yield _row(f"`{path}{name}`", default, field.description or "")


def _components(invocation: Invocation) -> Iterator[str]:
    from agentkd.plugins import PluginHost

    yield from _table("kind", "name", "what it is", "options")
    for component in PluginHost(auto=False, modules=["agentkd.builtins"]).registry:
        options = ", ".join(f"`{name}`" for name in component.settings.model_fields)
        yield _row(component.kind, f"`{component.name}`", component.summary, options)


def _hooks(invocation: Invocation) -> Iterator[str]:
    from agentkd import hookspecs

    yield from _table("hook", "what it is for")
    specs: dict[str, Any] = {n: getattr(hookspecs, n) for n in hookspecs.__all__ if n not in _NO_HOOKS}
    for name in sorted(specs, key=lambda n: int(inspect.getsourcelines(specs[n])[1])):
        arguments = ", ".join(inspect.signature(specs[name]).parameters)
        yield _row(f"`{name}({arguments})`", _first_line(inspect.getdoc(specs[name])))


_NO_HOOKS = ("hookimpl", "hookspec")


def _errors(invocation: Invocation) -> Iterator[str]:
    yield from _table("exit code", "error", "meaning")
    yield _row("0", "", "Done.")
    yield _row("1", "", "A check failed, or an error that nobody foresaw.")
    front: list[type[AgentkdError]] = list(AgentkdError.__subclasses__())
    for error in sorted(front, key=lambda e: e.exit_code):
        yield _row(str(error.exit_code), f"`{error.__name__}`", _first_line(inspect.getdoc(error)))
    yield _row("130", "", "Interrupted; the same command goes on from there.")


PARTS: dict[str, Callable[[Invocation], Iterator[str]]] = {
    "commands": _commands,
    "settings": _settings,
    "components": _components,
    "hooks": _hooks,
    "errors": _errors,
}
"""What can be written, by the name of its marker."""
