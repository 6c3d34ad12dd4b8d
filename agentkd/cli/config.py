"""`agentkd config`: the settings in force, their file and their schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click
from pydantic import BaseModel

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.shared import Group
from agentkd.errors import ConfigError
from agentkd.plugins import nearest

__all__ = ["command", "toml_lines"]


@click.group("config", cls=Group)
def command() -> None:
    """Show the settings, their file and their schema."""


@command.command("show")
@click.argument("table", required=False)
@click.option("--docs", is_flag=True, help="Explain every key.")
@pass_invocation
def show(invocation: Invocation, table: str | None, docs: bool) -> None:
    """Show the settings in force, or one TABLE of them, as TOML."""
    settings: Any = invocation.settings()
    names: list[str] = []
    for part in table.split(".") if table else ():
        known = sorted(getattr(type(settings), "model_fields", {}))
        if part not in known:
            raise ConfigError(f"there is no table `{table}`", hint=nearest(part, known), key=table)
        settings, names = getattr(settings, part), [*names, part]
    if invocation.is_json or not isinstance(settings, BaseModel):
        invocation.show(settings, lambda value, _: click.echo(json.dumps(value, default=str)))
        return
    click.echo("\n".join(toml_lines(settings, names, docs=docs)).strip())


@command.command("path")
@pass_invocation
def path(invocation: Invocation) -> None:
    """Print where the settings file lies, or would lie."""
    found = (invocation.root / "agentkd.toml").resolve()
    invocation.show({"path": str(found), "exists": found.is_file()}, lambda v, _: click.echo(v["path"]))


@command.command("schema")
@click.argument("component", required=False, metavar="[KIND/NAME]")
@pass_invocation
def schema(invocation: Invocation, component: str | None) -> None:
    """Print the JSON Schema of the settings, or of one component's options."""
    from agentkd.config import Settings

    model: type[BaseModel] = Settings
    if component:
        kind, _, name = component.partition("/")
        model = invocation.plugin_host().registry.get(kind, name).settings
    click.echo(json.dumps(model.model_json_schema(), indent=2))


def toml_lines(settings: BaseModel, path: list[str], *, docs: bool = False) -> Iterator[str]:
    """Yield the lines of a TOML document: plain keys first, tables after them.

    Keys without a value (None) are commented out, because TOML has no null.
    """
    tables = []
    if path:
        yield ""
        yield f"[{'.'.join(path)}]"
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            tables.append((name, value))
            continue
        if docs and field.description:
            yield f"# {' '.join(field.description.split())}"
        yield f"# {name} =" if value is None else f"{name} = {toml_value(value)}"
    for name, value in tables:
        yield from toml_lines(value, [*path, name], docs=docs)


def toml_value(value: Any) -> str:
    """Render a JSON-like value as inline TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(v) for v in value) + "]"
    return json.dumps(value)
