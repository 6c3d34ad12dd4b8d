"""Agents: a LangGraph loop that recalls, thinks and acts, records what happened, and can be corrected.

Importing this package loads neither langgraph nor a model.
"""

from __future__ import annotations

from agentkd.agents.agent import Agent
from agentkd.agents.checkpointer import open_checkpointer
from agentkd.agents.event import Acted, AgentEvent, Finished, Interrupted, Recalled, Replied, Started
from agentkd.agents.prompt import PromptBuilder, tool_line
from agentkd.agents.recorder import Recorder
from agentkd.agents.review import Approve, Decision, Edit, Reject, Respond
from agentkd.agents.runner import RunSummary, run_tasks
from agentkd.agents.state import PausedRun

__all__ = [
    "Acted",
    "Agent",
    "AgentEvent",
    "Approve",
    "Decision",
    "Edit",
    "Finished",
    "Interrupted",
    "PausedRun",
    "PromptBuilder",
    "Recalled",
    "Recorder",
    "Reject",
    "Replied",
    "Respond",
    "RunSummary",
    "Started",
    "open_checkpointer",
    "run_tasks",
    "tool_line",
]
