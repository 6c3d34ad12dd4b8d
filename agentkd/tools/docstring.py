"""Read a Google-style docstring: what a function does, and what each argument means."""

from __future__ import annotations

import inspect
import re

__all__ = ["parse_docstring"]

_SECTION = re.compile(
    r"^(Args|Arguments|Parameters|Returns|Return|Yields|Raises|Examples?|Notes?|Source):\s*$"
)
_ARGUMENT = re.compile(r"^\*{0,2}(?P<name>\w+)\s*(?:\([^)]*\))?\s*:\s*(?P<text>.*)$")


def parse_docstring(text: str | None) -> tuple[str, dict[str, str]]:
    """Return the description and the documented arguments of a docstring, both on one line each."""
    description: list[str] = []
    arguments: dict[str, str] = {}
    section = ""
    indent: int | None = None
    current = ""
    for line in inspect.cleandoc(text or "").splitlines():
        heading = _SECTION.match(line)
        if heading:
            section, indent, current = heading.group(1), None, ""
        elif not section:
            description.append(line.strip())
        elif section in ("Args", "Arguments", "Parameters") and line.strip():
            depth = len(line) - len(line.lstrip())
            indent = depth if indent is None else indent
            found = _ARGUMENT.match(line.strip()) if depth <= indent else None
            if found:
                current = found["name"]
                arguments[current] = found["text"].strip()
            elif current:
                arguments[current] = f"{arguments[current]} {line.strip()}".strip()
    return " ".join(part for part in description if part), arguments
