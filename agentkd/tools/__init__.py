"""Tools: typed functions that a model may call, and the box that offers them to an agent."""

from __future__ import annotations

from agentkd.tools.box import ToolBox
from agentkd.tools.function import FunctionTool, tool
from agentkd.tools.skill import READ_SKILL, ReadSkillSettings, SkillReader, read_skill

__all__ = [
    "READ_SKILL",
    "FunctionTool",
    "ReadSkillSettings",
    "SkillReader",
    "ToolBox",
    "read_skill",
    "tool",
]
