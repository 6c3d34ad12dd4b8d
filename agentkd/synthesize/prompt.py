"""Prompts: Markdown files with named slots, replaceable by a folder of files with the same names.

A file holds the system part, a line `---`, and the user part. `{{slot}}` is filled in one pass, and what
fills it is data: it cannot close the tags that stand around it.
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
    """Return `<folder>/<name>.md` where it exists, else the built-in prompt.

    Raises ConfigError where the folder does not exist.
    """
    if folder:
        own = Path(folder).expanduser()
        if not own.is_dir():
            raise ConfigError(
                f"prompt folder `{folder}` does not exist", hint="check the option `prompts`", path=folder
            )
        if (own / f"{name}.md").is_file():
            return (own / f"{name}.md").read_text(encoding="utf-8")
    built_in = resources.files("agentkd.synthesize") / "prompts" / f"{name}.md"
    return built_in.read_text(encoding="utf-8")


def fill(prompt: str, slots: Mapping[str, str]) -> list[Message]:
    """Return the messages of a prompt; raises ConfigError for a slot that nothing fills."""
    missing = set(_SLOT.findall(prompt)) - set(slots)
    if missing:
        raise ConfigError(
            f"a prompt has the unknown slot `{min(missing)}`", hint=f"known: {', '.join(sorted(slots))}"
        )
    system, line, user = prompt.partition("\n---\n")
    if not line:
        system, user = "", prompt
    return [
        Message(role="system" if is_system else "user", content=text, origin="system")
        for is_system, part in ((True, system), (False, user))
        if (text := _SLOT.sub(lambda match: slots[match[1]].replace("</", "< /"), part).strip())
    ]
