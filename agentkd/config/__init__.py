"""Settings of a workspace: their tables, and how they are read."""

from __future__ import annotations

from agentkd.config.agent import AgentSettings, PluginSettings, WhenTainted
from agentkd.config.load import CONFIG_NAME, load_settings
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
    "load_settings",
]
