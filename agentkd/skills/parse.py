"""Read one `SKILL.md`: front matter by the Agent Skills format, then Markdown.

Limits as in the specification (agentskills.io): `name` 1-64 lower-case letters, digits and single
hyphens, equal to its folder; `description` up to 1024 characters; `compatibility` up to 500;
`metadata` a map of texts; no other keys.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from agentkd.errors import DataError
from agentkd.plugins import nearest
from agentkd.schema import Value

__all__ = ["MAX_FILE_BYTES", "Skill", "read_skill_file"]

MAX_FILE_BYTES = 512 * 1024
_KEYS = ("name", "description", "license", "compatibility", "metadata", "allowed-tools")
_LIMITS = {"name": 64, "description": 1024, "compatibility": 500}


class Skill(Value):
    """One skill as its folder describes it."""

    name: str
    """Name, equal to the folder's."""
    description: str
    """What it does and when to use it."""
    path: Path
    """Its folder."""
    license: str = ""
    """License of its files."""
    compatibility: str = ""
    """What it needs to run."""
    allowed_tools: tuple[str, ...] = ()
    """Tools that it expects; they are never granted by it."""
    metadata: dict[str, str] = Field(default_factory=dict)
    """Further keys of its author."""
    body: str = ""
    """Instructions in Markdown."""


def read_skill_file(path: Path) -> Skill:
    """Read and check a skill's folder or its `SKILL.md`; DataError names the file and the line."""
    path = path / "SKILL.md" if path.is_dir() else path
    text = _read_text(path)
    lines = text.splitlines()
    if not lines or lines[0].strip() != "---":
        raise _fault(path, 1, "must begin with front matter", "put `---` into the first line")
    end = next((i for i, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), 0)
    if not end:
        raise _fault(path, len(lines), "front matter is not closed", "end it with a line `---`")
    fields, where = _front_matter(path, "\n".join(lines[1:end]))
    _check(path, fields, where)
    return Skill(
        name=fields["name"],
        description=" ".join(fields["description"].split()),
        path=path.parent,
        license=fields.get("license", ""),
        compatibility=fields.get("compatibility", ""),
        allowed_tools=tuple(fields.get("allowed-tools", "").split()),
        metadata=fields.get("metadata", {}),
        body="\n".join(lines[end + 1 :]).strip(),
    )


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _fault(path, 1, f"is larger than {MAX_FILE_BYTES // 1024} KiB", "split it into more files")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"`{path.parent}` has no `SKILL.md`", path=str(path)) from error
    except UnicodeDecodeError as error:
        raise _fault(path, 1, "is not UTF-8 text", "save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"`{path}` cannot be read: {error.strerror}", path=str(path)) from error


def _front_matter(path: Path, text: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the values as written and the line of each key; every scalar stays a text."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        said = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise _fault(path, 2 + (mark.line if mark else 0), f"is not valid YAML: {said}") from error
    if not isinstance(node, yaml.MappingNode):
        raise _fault(path, 2, "front matter is not a mapping", "write `name: ...` and `description: ...`")
    fields: dict[str, Any] = {}
    where: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 2  # the first line is the fence
        if str(key.value) in fields:
            raise _fault(path, line, f"has the key `{key.value}` twice")
        where[str(key.value)] = line
        fields[str(key.value)] = _text(path, str(key.value), value)
    return fields, where


def _text(path: Path, key: str, node: Any) -> str | dict[str, str]:
    line = node.start_mark.line + 2
    if key == "metadata":
        if not isinstance(node, yaml.MappingNode):
            raise _fault(path, line, "`metadata` is not a mapping", "write one `key: text` per line")
        return {str(k.value): str(_text(path, f"metadata.{k.value}", v)) for k, v in node.value}
    if not isinstance(node, yaml.ScalarNode):
        raise _fault(path, line, f"`{key}` is not a text", "put the text into quotes")
    return str(node.value)


def _check(path: Path, fields: dict[str, Any], where: dict[str, int]) -> None:
    for key in fields:
        if key not in _KEYS:
            raise _fault(path, where[key], f"has the unknown key `{key}`", nearest(key, _KEYS))
    for key in ("name", "description"):
        if not fields.get(key, "").strip():
            raise _fault(path, where.get(key, 2), f"has no `{key}`")
    for key, limit in _LIMITS.items():
        if len(fields.get(key, "")) > limit:
            raise _fault(path, where[key], f"`{key}` has {len(fields[key])} characters, {limit} are allowed")
    name = unicodedata.normalize("NFKC", fields["name"].strip())
    is_plain = all(c.isalnum() or c == "-" for c in name) and name == name.lower()
    if not is_plain or name.startswith("-") or name.endswith("-") or "--" in name:
        hint = "use lower-case letters, digits and single hyphens"
        raise _fault(path, where["name"], f"`{name}` cannot be a skill's name", hint)
    folder = unicodedata.normalize("NFKC", path.absolute().parent.name)
    if name != folder:
        raise _fault(path, where["name"], f"is named `{name}` but lies in the folder `{folder}`")
    fields["name"] = name


def _fault(path: Path, line: int, what: str, hint: str = "") -> DataError:
    return DataError(f"`{path}`, line {line}: {what}", hint=hint, path=str(path), line=line)
