"""Does a plugin fit in? Known hooks, well-named components, documented options, a light import."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from agentkd import hookspecs
from agentkd.plugins import Component, PluginHost
from agentkd.testing.checks.claim import claim

__all__ = ["HEAVY", "check_plugin"]

HEAVY = (
    "torch", "transformers", "peft", "chromadb", "litellm", "langgraph", "onnxruntime", "sqlalchemy",
)  # fmt: skip
"""Packages that a plugin must import inside its factories, never at its own import."""

_KEBAB = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def check_plugin(plugin: ModuleType | object, *, name: str = "") -> PluginHost:
    """Check a plugin module or object as a workspace would load it; returns the host that holds it."""
    called = name or str(getattr(plugin, "__name__", type(plugin).__name__))
    host = PluginHost(auto=False)
    host.add(plugin, called)  # pluggy refuses unknown hooks and unknown arguments
    hooks = host.manager.get_hookcallers(plugin) or []
    claim(hooks, f"plugin `{called}` implements no hook; mark its functions with `@agentkd.hookimpl`")
    for component in host.registry:
        _check_component(component)
    for owner, command in host.hooks.offers(hookspecs.commands):
        claim(hasattr(command, "make_context"), f"plugin `{owner}` offers `{command!r}`, no click command")
    for owner, folder in host.hooks.offers(hookspecs.skills):
        found = list(Path(folder).glob("*/SKILL.md"))
        claim(found, f"plugin `{owner}` offers the skill folder `{folder}`, which holds no `<name>/SKILL.md`")
    if isinstance(plugin, ModuleType) and plugin.__spec__ is not None:
        _check_import(plugin.__name__)
    return host


def _check_component(component: Component[Any]) -> None:
    what = f"{component.kind} `{component.name}`"
    claim(_KEBAB.fullmatch(component.name), f"{what}: names are kebab-case")
    summary = component.summary.strip()
    claim(summary.endswith("."), f"{what}: `summary` must be one sentence, not {summary!r}")
    claim(callable(component.build), f"{what}: `build` must be callable with (settings, kit)")
    claim(
        component.settings.model_config.get("extra") == "forbid",
        f"{what}: its settings must forbid unknown keys; derive them from `agentkd.schema.Value`",
    )
    for option, field in component.settings.model_fields.items():
        claim(field.description, f"{what}: option `{option}` has no docstring")


def _check_import(module: str) -> None:
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}; import {module}; "
        f"print(*sorted(m for m in {HEAVY!r} if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    claim(done.returncode == 0, f"`import {module}` fails on its own: {done.stderr.strip()[-500:]}")
    loaded = done.stdout.split()
    claim(not loaded, f"`import {module}` loads {', '.join(loaded)}: import them inside the factories")
