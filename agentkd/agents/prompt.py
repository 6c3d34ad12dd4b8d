"""Build prompts: one layout for the running agent and for the training rows made from its runs.

::

    system     instructions, skills, tools and the task's own instructions: one head for a whole suite
    user       recalled memory, then `Request: ...`
    assistant  a call            (from here on: history)
    tool       memory recalled for the next turn, then the result
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from agentkd.config import AgentSettings
from agentkd.schema import Message, Task, ToolSpec

__all__ = ["PromptBuilder", "SkillNote", "brief_line", "tool_line"]

READ_SKILL = "read_skill"
BRIEF_WORDS = 14


class SkillNote(Protocol):
    """What a prompt says about a skill; `agentkd.skills.SkillCard` keeps this promise."""

    @property
    def name(self) -> str:
        """Return the name to open it by."""

    @property
    def description(self) -> str:
        """Return in one line when to use it."""


class PromptBuilder:
    """Implements `agentkd.protocols.Views`."""

    def __init__(self, settings: AgentSettings, skills: Callable[[], Sequence[SkillNote]] = tuple) -> None:
        """Put a builder together; `skills` is asked for every prompt, for a skill may be closed."""
        self._instructions = settings.instructions.strip() or _built_in(
            "call" if settings.force_tool_call else "answer"
        )
        self._is_brief = settings.tool_detail == "brief"
        self._skills = skills

    def prompt(
        self,
        task: Task,
        *,
        tools: Sequence[ToolSpec],
        history: Sequence[Message] = (),
        memory: str = "",
        tool_docs: bool = True,
    ) -> tuple[Message, ...]:
        """Return the messages that a model sees.

        `memory` is what was recalled before the first turn. Skills are listed where the tool `read_skill`
        is offered.
        """
        parts = [self._instructions]
        if any(tool.name == READ_SKILL for tool in tools) and (skills := self._skills()):
            listed = "\n".join(f"- {skill.name}: {skill.description}" for skill in skills)
            parts.append(f"Skills, opened with `{READ_SKILL}`:\n{listed}")
        if tool_docs and tools:
            line = brief_line if self._is_brief else tool_line
            parts.append("Tools:\n" + "\n".join(line(tool) for tool in tools))
        if task.system.strip():
            parts.append(task.system.strip())
        request = f"Request: {task.prompt}"
        return (
            Message(role="system", content="\n\n".join(parts), origin="system"),
            Message(role="user", content=f"{memory}\n\n{request}" if memory else request),
            *history,
        )


def tool_line(tool: ToolSpec) -> str:
    """Describe a tool on one line: `name(param: type, optional?: type): description`."""
    schema = tool.parameters
    required = set(schema.get("required", ()))
    parameters = ", ".join(
        f"{name}{'' if name in required else '?'}: {_type_of(details)}"
        for name, details in schema.get("properties", {}).items()
    )
    line = f"{tool.name}({parameters})"
    return f"{line}: {' '.join(tool.description.split())}" if tool.description else line


def brief_line(tool: ToolSpec) -> str:
    """Describe a tool by its name and the first words of its description."""
    words = tool.description.split()
    head = " ".join(words[:BRIEF_WORDS]) + (" ..." if len(words) > BRIEF_WORDS else "")
    return f"{tool.name}: {head}" if head else tool.name


def _type_of(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"], ensure_ascii=False)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " | ".join(dict.fromkeys(_type_of(option) for option in schema[key]))
    kind = schema.get("type", "any")
    if kind == "array":
        return f"{_type_of(schema.get('items') or {})}[]"
    return " | ".join(kind) if isinstance(kind, list) else str(kind)


@cache
def _built_in(name: str) -> str:
    path = Path(__file__).parent / "prompts" / f"{name}.md"
    return path.read_text(encoding="utf-8").strip()
