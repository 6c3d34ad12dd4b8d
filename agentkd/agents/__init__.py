"""Agents: a LangGraph loop that recalls, thinks and acts, records what happened, and can be corrected.

Importing this package loads neither langgraph nor a model.
"""

from __future__ import annotations

from agentkd.agents.agent import Agent
from agentkd.agents.checkpointer import clean_checkpointer, open_checkpointer
from agentkd.agents.event import (
    Acted,
    AgentEvent,
    Finished,
    Interrupted,
    Recalled,
    RecallOff,
    Replied,
    Restarted,
    Started,
)
from agentkd.agents.lane import Router, Serving
from agentkd.agents.prompt import PromptBuilder, tool_line
from agentkd.agents.recorder import Recorder
from agentkd.agents.retry import Lessons, Retries, retry_note, unrescued
from agentkd.agents.review import Approve, Decision, Edit, Reject, Respond, Restart
from agentkd.agents.runner import RunSummary, run_tasks
from agentkd.agents.state import PausedRun
from agentkd.agents.trial import Trial, TrialPolicy, scope_text

__all__ = [
    "Acted",
    "Agent",
    "AgentEvent",
    "Approve",
    "Decision",
    "Edit",
    "Finished",
    "Interrupted",
    "Lessons",
    "PausedRun",
    "PromptBuilder",
    "RecallOff",
    "Recalled",
    "Recorder",
    "Reject",
    "Replied",
    "Respond",
    "Restart",
    "Restarted",
    "Retries",
    "Router",
    "RunSummary",
    "Serving",
    "Started",
    "Trial",
    "TrialPolicy",
    "clean_checkpointer",
    "open_checkpointer",
    "retry_note",
    "run_tasks",
    "scope_text",
    "tool_line",
    "unrescued",
]
