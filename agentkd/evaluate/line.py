"""One line of a task file: read, checked, and refused with path and line number where it is broken."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from agentkd.errors import DataError
from agentkd.plugins import nearest
from agentkd.schema import ToolCall, ToolSpec, Value, content_id

__all__ = ["Line", "read_lines"]


class Line(Value):
    """A task of a file with what is right for it."""

    id: str = ""
    """Name, unique in the file; without it, a hash of the request."""
    prompt: str = Field(min_length=1)
    """The request."""
    system: str = ""
    """Instructions that precede it."""
    split: str = ""
    """Split; empty to be dealt out."""
    group: str = ""
    """Tasks of one group never straddle a split."""
    tools: tuple[ToolSpec, ...] = ()
    """Tools that a `calls` task offers."""
    extras: dict[str, Any] = Field(default_factory=dict)
    """Data of plugins."""
    answer: str | tuple[str, ...] = ()
    """Accepted text or texts."""
    contains: str | tuple[str, ...] = ()
    """Text or texts that must occur."""
    regex: str = ""
    """Pattern that must match."""
    calls: tuple[ToolCall, ...] = ()
    """Wanted calls in order."""

    @model_validator(mode="after")
    def _is_complete(self) -> Line:
        rules = [name for name in ("answer", "contains", "regex", "calls") if getattr(self, name)]
        if len(rules) != 1:
            said = " and ".join(f"`{name}`" for name in rules) or "none"
            raise ValueError(f"exactly one of `answer`, `contains`, `regex`, `calls` is wanted, found {said}")
        unknown = {call.name for call in self.calls} - {tool.name for tool in self.tools}
        if unknown:
            raise ValueError(f"`calls` names `{sorted(unknown)[0]}`, which is not among `tools`")
        if self.tools and not self.calls:
            raise ValueError("`tools` are only offered to a task with `calls`")
        try:
            re.compile(self.regex)
        except re.error as error:
            raise ValueError(f"`regex` is not a regular expression: {error}") from error
        return self

    def rule(self) -> tuple[str, Any]:
        """Return the name of the scorer and what it compares with."""
        if self.calls:
            return "calls", self.calls
        if self.regex:
            return "regex", self.regex
        name, texts = ("exact", self.answer) if self.answer else ("contains", self.contains)
        return name, (texts,) if isinstance(texts, str) else texts

    def group_or_request(self) -> str:
        """Return the group; without one, the request without case and white space."""
        return self.group or " ".join(self.prompt.casefold().split())


def read_lines(path: Path) -> dict[int, Line]:
    """Read a whole task file; returns the lines by their number from 1.

    Raises:
        DataError: the file cannot be read, a line is broken, or two lines share an id. It names path
            and line, and nothing is loaded.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"task file `{path}` cannot be read: {error}", path=str(path)) from error
    found: dict[int, Line] = {}
    owner: dict[str, int] = {}
    for number, raw in enumerate(text.split("\n"), start=1):
        if raw.strip():
            line = _parse(raw, path, number)
            if line.id in owner:
                raise _broken(path, number, f"the id `{line.id}` was used in line {owner[line.id]}")
            owner[line.id] = number
            found[number] = line
    if not found:
        raise DataError(f"task file `{path}` holds no task", path=str(path))
    return found


def _parse(raw: str, path: Path, number: int) -> Line:
    try:
        data = json.loads(raw)
    except json.JSONDecodeError as error:
        raise _broken(path, number, f"not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(data, dict):
        raise _broken(path, number, f"an object is wanted, not {type(data).__name__}")
    try:
        line = Line.model_validate(data)
    except ValidationError as error:
        raise _explained(error, path, number) from error
    return line if line.id else line.model_copy(update={"id": content_id("task", line.prompt, line.system)})


def _explained(error: ValidationError, path: Path, number: int) -> DataError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        return _broken(path, number, f"unknown key `{where}`", nearest(where, Line.model_fields))
    why = first["msg"].removeprefix("Value error, ")
    return _broken(path, number, f"`{where}`: {why}" if where else why)


def _broken(path: Path, number: int, why: str, hint: str = "nothing was loaded") -> DataError:
    return DataError(f"line {number} of `{path}`: {why}", hint=hint, path=str(path), line=number)
