"""Prompts: Markdown files with named slots, replaceable by a folder of files with the same names.

A file holds the system part, a line `---`, and the user part. `{{slot}}` is filled in one pass, so a
slot's text is never read as a slot again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from agentkd.errors import ConfigError
from agentkd.schema import Message

__all__ = ["fill", "load_prompt"]

_SLOT = re.compile(r"\{\{(\w+)\}\}")


def load_prompt(name: str, folder: str = "") -> str:
    """Return the text of a prompt: `<folder>/<name>.md` where it exists, else the built-in one.

    Raises ConfigError where the folder does not exist.
    """
    if folder:
        if not Path(folder).expanduser().is_dir():
            raise ConfigError(
                f"prompt folder `{folder}` does not exist", hint="check the option `prompts`", path=folder
            )
        own = Path(folder).expanduser() / f"{name}.md"
        if own.is_file():
            return own.read_text(encoding="utf-8")
    return resources.files("agentkd.distill").joinpath("prompts", f"{name}.md").read_text(encoding="utf-8")


def fill(prompt: str, slots: Mapping[str, str]) -> list[Message]:
    """Return the messages of a prompt; raises ConfigError for a slot that nothing fills."""
    for slot in _SLOT.findall(prompt):
        if slot not in slots:
            raise ConfigError(
                f"a prompt has the unknown slot `{slot}`",
                hint=f"known: {', '.join(sorted(slots))}",
                slot=slot,
            )
    system, line, user = prompt.partition("\n---\n")
    if not line:
        system, user = "", prompt
    parts = [("system", system), ("user", user)]
    filled = [(role, _SLOT.sub(lambda match: slots[match[1]], text).strip()) for role, text in parts]
    return [
        Message(role="system" if role == "system" else "user", content=text, origin="system")
        for role, text in filled
        if text
    ]
