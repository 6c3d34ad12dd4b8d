"""The table `[plugins]`: whose programs are loaded."""

from __future__ import annotations

from pydantic import Field

from agentkd.schema.base import Value

__all__ = ["PluginSettings"]


class PluginSettings(Value):
    """`[plugins]`: what is loaded."""

    auto: bool = True
    """Whether all installed plugins are loaded; else those of `allow` and `modules` alone, and no other one
    is imported (`agentkd plugins installed` shows them without importing any)."""
    allow: tuple[str, ...] = ()
    """Installed plugins to load without `auto`: `name`, or `name==version` to hold it to a version."""
    modules: tuple[str, ...] = ()
    """Plugins to load by module name."""
    block: tuple[str, ...] = ()
    """Plugins that are not loaded."""
    hook_seconds: float = Field(default=300.0, ge=0.0)
    """How long a hook may take before the command ends with the plugin's name; 0 sets no limit and calls
    hooks in the thread of their caller."""
