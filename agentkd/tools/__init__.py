"""Tools: typed functions that a model may call, and the box that offers them to an agent."""

from __future__ import annotations

from agentkd.tools.box import ToolBox
from agentkd.tools.code import RUN_PYTHON, build_run_python, run_python
from agentkd.tools.fetch import FETCH, FetchSettings, build_fetch, fetch
from agentkd.tools.function import FunctionTool, tool
from agentkd.tools.skill import READ_SKILL, ReadSkillSettings, SkillReader, read_skill

__all__ = [
    "FETCH",
    "READ_SKILL",
    "RUN_PYTHON",
    "FetchSettings",
    "FunctionTool",
    "ReadSkillSettings",
    "SkillReader",
    "ToolBox",
    "build_fetch",
    "build_run_python",
    "fetch",
    "read_skill",
    "run_python",
    "tool",
]
