"""`agentkd plugins`: plugins and their components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.render import print_table
from agentkd.cli.shared import Group
from agentkd.plugins import KINDS, Installed, installed_plugins

if TYPE_CHECKING:
    from rich.console import Console

    from agentkd.plugins import PluginHost

__all__ = ["command"]


@click.group("plugins", cls=Group)
def command() -> None:
    """List plugins and their components."""


@command.command("list")
@click.option("--kind", type=click.Choice(KINDS), help="Only components of this kind.")
@pass_invocation
def list_(invocation: Invocation, kind: str | None) -> None:
    """List loaded plugins, their hooks, and the components that they offer."""
    invocation.show(_describe(invocation.plugin_host(), kind), _print)


@command.command("installed")
@pass_invocation
def installed(invocation: Invocation) -> None:
    """List the installed plugins without importing any, and whether this workspace loads them.

    A plugin is a program with your rights: with `[plugins] auto = false` only those of `allow` and `modules`
    are imported.
    """
    from agentkd.config import load_settings

    chosen = load_settings(invocation.root, assignments=invocation.assignments).plugins
    invocation.show(installed_plugins(chosen), _print_installed)


def _print_installed(plugins: Sequence[Installed], console: Console) -> None:
    rows = [(p.name, p.version, p.distribution, p.module, "yes" if p.is_loaded else "no") for p in plugins]
    print_table(console, ["plugin", "version", "distribution", "imports", "loaded"], rows, empty="none")


def _describe(host: PluginHost, kind: str | None) -> dict[str, Any]:
    components = [c for c in host.registry if kind in (None, c.kind)]
    return {
        "plugins": [
            {"name": name, "version": version, "hooks": _hooks_of(host, name)}
            for name, version in host.versions.items()
        ],
        "components": [
            {"kind": c.kind, "name": c.name, "plugin": c.plugin, "summary": c.summary,
             "options": sorted(c.settings.model_fields)}
            for c in components
        ],
    }  # fmt: skip


def _hooks_of(host: PluginHost, name: str) -> list[str]:
    callers = host.manager.get_hookcallers(host.manager.get_plugin(name)) or []
    return sorted(caller.name for caller in callers)


def _print(value: dict[str, Any], console: Console) -> None:
    print_table(
        console,
        ["plugin", "version", "hooks"],
        [(p["name"], p["version"], ", ".join(p["hooks"])) for p in value["plugins"]],
        empty="no plugin is loaded",
    )
    console.print()
    print_table(
        console,
        ["kind", "name", "plugin", "what it is", "options"],
        [
            (c["kind"], c["name"], c["plugin"], c["summary"], ", ".join(c["options"]))
            for c in value["components"]
        ],
        empty="no component",
    )
