"""The tool `read_skill`: opens one of the skills that the prompt only lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from agentkd.schema import Value
from agentkd.tools.function import FunctionTool

__all__ = ["READ_SKILL", "ReadSkillSettings", "SkillReader", "read_skill"]

READ_SKILL = "read_skill"


class SkillReader(Protocol):
    """Where skills are read from; `agentkd.skills.SkillLibrary` keeps this promise."""

    @property
    def names(self) -> Sequence[str]:
        """Return the names of the skills."""

    def read(self, name: str, file: str = "SKILL.md") -> str:
        """Return the text of one file of a skill; raises NotFoundError."""


class ReadSkillSettings(Value):
    """How much of a skill goes back to the model."""

    max_chars: int = 20_000
    """Longest text that one call returns; the rest is cut with a note."""


def read_skill(
    skills: SkillReader, settings: ReadSkillSettings | None = None
) -> FunctionTool[[str, str], str]:
    """Return the tool that reads the instructions of a skill, or another file of its folder."""
    limit = (settings or ReadSkillSettings()).max_chars

    def read(name: str, file: str = "SKILL.md") -> str:
        text = skills.read(name, file)
        if len(text) <= limit:
            return text
        return f"{text[:limit]}\n[cut: {len(text) - limit} more characters]"

    read.__doc__ = (
        "Open a skill and follow what it says. Skills: "
        + ", ".join(skills.names)
        + ".\n\nArgs:\n    name: Name of the skill.\n    file: File inside the skill's folder."
    )
    return FunctionTool(read, name=READ_SKILL, trust="trusted")  # the operator installed them
