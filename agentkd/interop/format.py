"""The formats by name: which one a file has, and how each is read and written."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agentkd.errors import ConfigError, DataError
from agentkd.interop.ace import BULLET, dump_ace, read_ace
from agentkd.interop.candidate import counts_of
from agentkd.interop.imported import Imported
from agentkd.interop.langmem import dump_langmem, read_langmem
from agentkd.interop.mem0 import TEXTS, columns, dump_mem0, read_mem0
from agentkd.interop.output import write_file
from agentkd.interop.ownership import left_out, why_left_out
from agentkd.interop.pack import Evidences, dump_pack, read_pack
from agentkd.interop.reme import dump_reme, read_reme
from agentkd.interop.skill import memories_as_skill, read_skills
from agentkd.interop.source import read_text, whole_or_lines
from agentkd.plugins import nearest
from agentkd.schema import Memory, Scope
from agentkd.skills import MADE_HERE, read_skill_file, write_skill

__all__ = ["FORMATS", "Format", "detect", "read_foreign", "write_foreign"]


class Format(NamedTuple):
    """One shape of memories outside of a workspace."""

    summary: str
    """What it is."""
    read: Callable[[Path], Imported]
    """Reader."""
    dump: Callable[[Sequence[Memory]], str] | None = None
    """Writer of the file's text; None for a shape that is not one text."""


FORMATS: dict[str, Format] = {
    "pack": Format("Memory pack of agentkd: a zip with a manifest.", read_pack),
    "reme": Format("ReMe library: JSON lines.", read_reme, dump_reme),
    "ace": Format("ACE playbook: bullets with counts, as text or JSON.", read_ace, dump_ace),
    "mem0": Format("mem0 export: JSON or CSV.", read_mem0, dump_mem0),
    "langmem": Format("LangMem or LangGraph store items: JSON lines.", read_langmem, dump_langmem),
    "skill": Format("Agent Skills: a folder with a SKILL.md, or a folder of them.", read_skills),
}
"""Every format by name."""

_EMPTY_LIST = re.compile(r"\s*\[\s*\]\s*")
_BEGINS_AS_JSON = re.compile(r'\s*(?:\{|\[\s*(?:[\[{"]|\Z))')
"""How JSON begins and hardly anything else: `[` before a word begins a bullet or prose as well."""


def detect(path: str | Path) -> str:
    """Return the name of a file's or folder's format, judged by its content; DataError where it has none."""
    place = Path(path)
    if place.is_dir():
        if (place / "SKILL.md").is_file() or next(place.glob("*/SKILL.md"), None):
            return "skill"
        raise _unknown(place, "is a folder without skills")
    if place.name == "SKILL.md":
        return "skill"
    if place.is_file() and zipfile.is_zipfile(place):
        return "pack"
    text = read_text(place)
    if _EMPTY_LIST.fullmatch(text):
        raise _unknown(place, "is an empty list")
    name = _of_text(text) or _of_json(place, text)  # a bullet starts with `[`, as a JSON list does
    if not name:
        raise _unknown(place, "has a content that no known format has")
    return name


def read_foreign(path: str | Path, format_: str = "") -> Imported:
    """Read a file or folder of any known format; `format_` names it where it is not to be detected."""
    return _format(format_ or detect(path)).read(Path(path))


def write_foreign(
    memories: Sequence[Memory],
    path: str | Path,
    format_: str,
    *,
    evidence: Evidences | None = None,
    description: str = "",
    replace: bool = False,
    scope: Scope | None = None,
) -> Path:
    """Write memories in a format and return the file or folder; what exists is kept unless `replace`.

    `evidence` goes into a pack only, `description` into a skill only. Counts of use are those of here and of
    where a memory was imported from; a pack holds them apart. How long an item of a store lives is not in its
    memory: `with_life` tells it. Raises DataError for memories that the format
    would open to all (see `left_out`); `scope` names whose memories may go in all the same.
    """
    place, format_ = Path(path), format_.lower()
    dump = _format(format_).dump
    if evidence is not None and format_ != "pack":
        raise ConfigError(f"the format `{format_}` has no place for evidence", hint="use `--format pack`")
    if faults := left_out(memories, format_, scope):
        raise DataError(
            f"memories that a file of format `{format_}` cannot hold: {why_left_out(faults)}",
            hint="take out what `left_out` names, name whose memories they are, or write a pack",
        )
    if format_ == "pack":
        return write_file(place, dump_pack(memories, evidence), replace=replace)
    if dump is not None:
        counted = [memory.model_copy(update={"utility": counts_of(memory)}) for memory in memories]
        return write_file(place, dump(counted).encode("utf-8", "replace"), replace=replace)
    if not memories:
        raise DataError("a skill needs at least one memory", hint="nothing was written")
    if place.exists() and not _is_ours(place):
        raise ConfigError(f"`{place}` exists and was not made of memories", hint="choose another folder")
    skill = memories_as_skill(memories, place.absolute(), description or _described(memories))
    return write_skill(skill, replace=replace)


def _described(memories: Sequence[Memory]) -> str:
    """Return a description that says when to open the skill: the situations, as many as fit."""
    text = "Use it in one of these situations: "
    for memory in memories:
        more = " ".join(memory.when_to_use.split())[:200].rstrip(".") + "; "
        if len(text) + len(more) > 1000:
            break
        text += more
    return text.rstrip("; ") + "."


def _is_ours(folder: Path) -> bool:
    try:
        return MADE_HERE in read_skill_file(folder).metadata
    except DataError:
        return False


def _format(name: str) -> Format:
    if name.lower() not in FORMATS:
        raise ConfigError(f"no format is called `{name}`", hint=nearest(name, FORMATS))
    return FORMATS[name.lower()]


def _of_json(path: Path, text: str) -> str:
    """Return the format of the first record that has one, be the file JSON lines, a list or an object.

    Raises DataError for a file that begins as JSON and is broken; other text has no format.
    """
    try:
        whole, lines = whole_or_lines(path, text)
    except DataError:
        if _BEGINS_AS_JSON.match(text):
            raise
        return ""
    if not lines:
        return _of_value(whole)
    return next(filter(None, (_of_line(line) for _, line in lines)), "")


def _of_line(line: str) -> str:
    try:
        return _of_value(json.loads(line))
    except (ValueError, RecursionError):
        return ""


def _of_value(value: Any) -> str:
    while isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, Mapping):
        return ""
    for key in ("results", "memories", "items"):
        if isinstance(value.get(key), list):
            return _of_value(value[key]) if value[key] else ("langmem" if key == "items" else "mem0")
    if "memory_type" in value:
        return "reme"
    if "namespace" in value and "value" in value:
        return "langmem"
    if isinstance(value.get("bullets", value.get("skills")), (dict, list)):
        return "ace"
    return "mem0" if _is_mem0(value) else ""


def _is_mem0(value: Mapping[str, Any]) -> bool:
    """Whether a record is mem0's: chat messages and our own memories hold a `content` too."""
    if isinstance(value.get("memory"), str):
        return True
    is_named = any(name in value for name in ("id", "user_id", "agent_id"))
    is_other = "role" in value or "when_to_use" in value
    return is_named and not is_other and any(isinstance(value.get(name), str) for name in TEXTS)


def _of_text(text: str) -> str:
    if any(BULLET.match(line) for line in text.split("\n")):
        return "ace"
    heading = columns(text)
    is_mem0 = "id" in heading or any(name.endswith("_id") for name in heading)
    return "mem0" if is_mem0 and set(heading) & set(TEXTS) else ""


def _unknown(path: Path, what: str) -> DataError:
    hint = f"known formats: {', '.join(FORMATS)}; name one with `--format`"
    return DataError(f"`{path}` {what}", hint=hint, path=str(path))
