"""Write a skill's folder: front matter and Markdown, aside and then in place."""

from __future__ import annotations

from pathlib import Path

import yaml

from agentkd.errors import ConfigError, DataError
from agentkd.files import aside_folder, write_whole
from agentkd.skills.parse import MAX_FILE_BYTES, Skill, read_skill_file
from agentkd.skills.place import move_in, put_back

__all__ = ["skill_text", "write_skill"]


def skill_text(skill: Skill) -> str:
    """Return the text of a `SKILL.md`."""
    fields: dict[str, object] = {"name": skill.name, "description": " ".join(skill.description.split())}
    if skill.license:
        fields["license"] = skill.license
    if skill.compatibility:
        fields["compatibility"] = skill.compatibility
    if skill.allowed_tools:
        fields["allowed-tools"] = " ".join(skill.allowed_tools)
    if skill.metadata:
        fields["metadata"] = skill.metadata
    front = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=100)
    return f"---\n{front}---\n\n{skill.body.strip()}\n"


def write_skill(skill: Skill, *, replace: bool = False) -> Path:
    """Write the folder `skill.path` as a whole and return it.

    The new folder is read back before it takes its place, so a name or text that the format does not allow
    raises DataError and leaves nothing behind. Raises ConfigError where the folder exists and `replace` is
    False.
    """
    folder = skill.path
    put_back(folder.parent)
    if folder.exists() and not replace:
        raise ConfigError(f"`{folder}` exists already", hint="choose another folder", path=str(folder))
    text = skill_text(skill)
    if len(text.encode()) > MAX_FILE_BYTES:
        raise DataError(
            f"skill `{skill.name}` would be larger than {MAX_FILE_BYTES // 1024} KiB",
            hint="export fewer memories at a time",
        )
    with aside_folder(folder.parent) as scratch:
        aside = scratch / folder.name
        aside.mkdir()
        write_whole(aside / "SKILL.md", text)
        read_skill_file(aside)
        move_in(scratch, [folder.name], folder.parent)
    return folder
