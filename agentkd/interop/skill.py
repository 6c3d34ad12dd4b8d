"""Skills as memories and memories as a skill: a `SKILL.md` with a list of situations and what to do in them.

A skill that was written here says so in its metadata and is read back item by item. Any other skill is one
memory whose situation is its description; one that is too long to be shown whole becomes a memory per part,
as its headings divide it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agentkd.config import MemorySettings
from agentkd.errors import DataError
from agentkd.interop.candidate import KINDS, candidate
from agentkd.interop.imported import Imported
from agentkd.interop.section import Part, parts_of
from agentkd.interop.source import Record, RecordError, clean, gather
from agentkd.memory import fitting
from agentkd.schema import Hit, Memory, Scope
from agentkd.skills import MADE_HERE, Skill, read_skill_file

__all__ = ["memories_as_skill", "read_skills"]

FORMAT = "skill"
_KINDS, _APP = "agentkd-kinds", "agentkd-app"
_WHEN, _DO, _MORE = "- Situation: ", "  Do: ", "  "
_ROOM: int = MemorySettings.model_fields["max_rendered_chars"].default
_INTRO = "What earlier tasks taught, one lesson per point. Take the points whose situation is yours."


def read_skills(path: str | Path) -> Imported:
    """Read a skill's folder, its `SKILL.md`, or a folder of skills; DataError where there is none."""
    place = Path(path)
    if place.is_file():
        place = place.parent
    files = [place / "SKILL.md"] if (place / "SKILL.md").is_file() else sorted(place.glob("*/SKILL.md"))
    if not files:
        raise DataError(f"`{path}` holds no `SKILL.md`", path=str(path))
    records = (record for file in files for record in _records(file))
    return gather(Path(path), FORMAT, records, _memory)


def memories_as_skill(memories: Sequence[Memory], folder: Path, description: str, title: str = "") -> Skill:
    """Return the skill that teaches these memories; its name is the folder's.

    The description must say when to open it, in at most 1024 characters. Ids, kinds and the application
    go into the metadata; situations are put on one line.
    """
    points = [_point(memory) for memory in memories]
    apps = {memory.scope.app for memory in memories}
    metadata = {
        MADE_HERE: " ".join(memory.id for memory in memories),
        _KINDS: " ".join(memory.kind for memory in memories),
    }
    if len(apps) == 1 and (app := apps.pop()):
        metadata[_APP] = app
    body = "\n\n".join([f"# {title or folder.name}", _INTRO, "\n".join(points)])
    return Skill(name=folder.name, description=description, path=folder, metadata=metadata, body=body)


def _point(memory: Memory) -> str:
    do = memory.content.strip().replace("\n", f"\n{_MORE}")
    return f"{_WHEN}{' '.join(memory.when_to_use.split())}\n{_DO}{do}"


def _records(file: Path) -> Iterator[Record]:
    try:
        skill = read_skill_file(file)
    except DataError as error:
        yield Record(str(file), RecordError(error.message))
        return
    if MADE_HERE not in skill.metadata:
        yield from _foreign(file, skill)
        return
    ids, kinds = skill.metadata[MADE_HERE].split(), skill.metadata.get(_KINDS, "").split()
    for number, (when, do) in enumerate(_points(skill.body)):
        fields = {"when": when, "do": do, "skill": skill.name, "app": skill.metadata.get(_APP, "")}
        fields["kind"] = kinds[number] if number < len(kinds) and kinds[number] in KINDS else "strategy"
        fields["id"] = ids[number] if number < len(ids) else ""
        yield Record(f"{file}, point {number + 1}", _cleaned(fields))


def _foreign(file: Path, skill: Skill) -> Iterator[Record]:
    """Yield a skill of other origin as few entries that each fit into a rendered recall."""

    def fields(part: Part) -> dict[str, str]:
        trail = " > ".join(part.trail)
        when = f"{skill.description} ({trail})" if trail else skill.description
        return {"when": when, "do": part.text, "kind": "strategy", "skill": skill.name, "part": trail}

    def fits(part: Part) -> bool:
        return _fits(fields(part))

    for part in parts_of(skill.body, fits):
        place = f"{file}, `{part.trail[-1]}`" if part.trail else str(file)
        yield Record(place, _cleaned(fields(part)) if not part.text or fits(part) else _too_long(part))


def _fits(fields: dict[str, str]) -> bool:
    """Whether a recall of this memory alone shows it, as `[memory] max_rendered_chars` is by default."""
    try:
        return bool(fitting([Hit(memory=_memory(clean(fields)), score=1.0)], _ROOM))
    except RecordError:
        return False


def _too_long(part: Part) -> RecordError:
    return RecordError(
        f"is {len(part.text)} characters long and cannot be shown within the {_ROOM} of a recall; "
        "divide it by headings"
    )


def _points(body: str) -> Iterator[tuple[str, str]]:
    """Yield (situation, what to do) of each point of a list that `memories_as_skill` wrote."""
    when, lines = "", list[str]()
    for line in [*body.split("\n"), _WHEN]:
        if line.startswith(_WHEN) or line == _WHEN.rstrip():
            if when and lines:
                yield when, "\n".join(lines).strip()
            when, lines = line.removeprefix(_WHEN).strip(), []
        elif line.startswith(_DO) and not lines:
            lines = [line.removeprefix(_DO)]
        elif lines:
            lines.append(line.removeprefix(_MORE))


def _cleaned(fields: dict[str, str]) -> Any:
    try:
        return clean(fields)
    except RecordError as error:
        return error


def _memory(fields: Any) -> Memory:
    return candidate(
        FORMAT,
        kind=fields["kind"],
        when_to_use=fields["when"],
        content=fields["do"],
        scope=Scope(app=fields.get("app", "")),
        rest={name: fields[name] for name in ("skill", "id", "part") if fields.get(name)},
    )
