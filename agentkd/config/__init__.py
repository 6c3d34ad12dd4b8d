"""Settings of a workspace: their tables, and how they are read."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentkd.config.agent import AgentSettings, WhenTainted
    from agentkd.config.load import CONFIG_NAME, load_plugin_settings, load_settings
    from agentkd.config.plugins import PluginSettings
    from agentkd.config.settings import (
        CompileSettings,
        CycleSettings,
        DistillSettings,
        EvaluateSettings,
        GateSettings,
        MemorySettings,
        ModelSettings,
        PlaceSettings,
        RoleSettings,
        RoleWeights,
        RunSettings,
        Settings,
    )
    from agentkd.config.synthesize import SynthesizeSettings
    from agentkd.config.taken_back import RetireSettings, RevokeSettings
    from agentkd.config.trust import TrustSettings

_HOMES = {
    "AgentSettings": "agent",
    "CONFIG_NAME": "load",
    "CompileSettings": "settings",
    "CycleSettings": "settings",
    "DistillSettings": "settings",
    "EvaluateSettings": "settings",
    "GateSettings": "settings",
    "MemorySettings": "settings",
    "ModelSettings": "settings",
    "PlaceSettings": "settings",
    "PluginSettings": "plugins",
    "RetireSettings": "taken_back",
    "RevokeSettings": "taken_back",
    "RoleSettings": "settings",
    "RoleWeights": "settings",
    "RunSettings": "settings",
    "Settings": "settings",
    "SynthesizeSettings": "synthesize",
    "TrustSettings": "trust",
    "WhenTainted": "agent",
    "load_plugin_settings": "load",
    "load_settings": "load",
}

__all__ = [
    "CONFIG_NAME",
    "AgentSettings",
    "CompileSettings",
    "CycleSettings",
    "DistillSettings",
    "EvaluateSettings",
    "GateSettings",
    "MemorySettings",
    "ModelSettings",
    "PlaceSettings",
    "PluginSettings",
    "RetireSettings",
    "RevokeSettings",
    "RoleSettings",
    "RoleWeights",
    "RunSettings",
    "Settings",
    "SynthesizeSettings",
    "TrustSettings",
    "WhenTainted",
    "load_plugin_settings",
    "load_settings",
]


def __getattr__(name: str) -> Any:
    """Import a table's module when it is first asked for (PEP 562): the command line's help needs one."""
    if name not in _HOMES:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
