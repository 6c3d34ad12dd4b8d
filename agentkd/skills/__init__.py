"""Skills: folders with a `SKILL.md`, read by the open Agent Skills format."""

from __future__ import annotations

from agentkd.skills.install import install_skills
from agentkd.skills.library import (
    MADE_HERE,
    SkillCard,
    SkillLibrary,
    find_skills,
    memory_ids_of,
    skill_dirs,
)
from agentkd.skills.parse import Skill, read_skill_file
from agentkd.skills.write import skill_text, write_skill

__all__ = [
    "MADE_HERE",
    "Skill",
    "SkillCard",
    "SkillLibrary",
    "find_skills",
    "install_skills",
    "memory_ids_of",
    "read_skill_file",
    "skill_dirs",
    "skill_text",
    "write_skill",
]
