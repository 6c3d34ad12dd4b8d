"""ACE playbooks (Agentic Context Engineering): bullets with counts below section headings.

The text form is `[id] helpful=5 harmful=1 :: what to do`; the JSON form holds the same bullets as objects,
as a list or by id under `bullets` (or `skills`). A playbook has no situations: a bullet is found by its text.
It cannot say whose a bullet is either: see `left_out`. Sections tell the kind, so that preferences and facts
stay what they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agentkd.interop.candidate import candidate, count, kept_of, moment, text_of, wants_mapping
from agentkd.interop.imported import Imported, Skipped
from agentkd.interop.source import Record, RecordError, clean, gather, read_text, whole_or_lines
from agentkd.schema import Memory, Utility

__all__ = ["BULLET", "dump_ace", "read_ace"]

FORMAT = "ace"
BULLET = re.compile(r"^\s*\[([^\]\n]{1,200})\]\s*helpful=(\d{1,9})\s*harmful=(\d{1,9})\s*::[ \t]*(.*)$")
"""One line of a text playbook: id, helpful, harmful, content."""

_ID = re.compile(r"[^\]\n]{1,200}")
_BROKEN_BULLET = re.compile(
    r"""\s* \[ [a-z]+ -\d{5} \b (?! \]\( )                          # an id of the usual form, no link
    | \s* \[ [^\W\d_] [\w-]{0,40} \d [\w-]{0,40} (?: \s [^\]]* )? $  # an id in a bracket that is never closed
    | \s* \[ [^\]]* \] \s* (?: helpful | harmful ) \s* [=:]         # any id before a bullet's counts
    | \s* \[ [^\]]{0,99} \d [^\]]{0,99} \] \s* ::                     # an id before a bullet's text
    | .* \b helpful=\d""",
    re.VERBOSE,
)
"""A line that was meant as a bullet. Not so checkboxes, links, notes such as `[1]` or `[sic]`, and code such
as `[1, 2,`, `["a",` or `[x for x in y`: a lesson may go on with them."""
_NO_BULLET = "looks like a bullet and is none: write `[id] helpful=0 harmful=0 :: text`"

_SECTIONS = {
    "strategy": "STRATEGIES & INSIGHTS",
    "pitfall": "COMMON MISTAKES TO AVOID",
    "parameter": "FORMULAS & CALCULATIONS",
    "case": "CODE SNIPPETS & TEMPLATES",
    "contrast": "PROBLEM-SOLVING HEURISTICS",
    "fact": "CONTEXT CLUES & INDICATORS",
    "preference": "USER PREFERENCES",
    "tool-note": "TOOLS & APIS",
}
_REST = "OTHERS"
_KIND_WORDS = (("pitfall", ("mistake", "avoid", "pitfall", "error")), ("tool-note", ("tool", "api")),
               ("preference", ("preference",)), ("fact", ("context clue",)),
               ("strategy", ("strateg", "heuristic")))  # fmt: skip


def read_ace(path: str | Path) -> Imported:
    """Read a playbook; DataError for a file that is none. Text outside of bullets is skipped."""
    file = Path(path)
    text = read_text(file)
    stray: list[Skipped] = []
    is_json = text.lstrip()[:1] == "{"
    records = _objects(file, text) if is_json else _bullets(text, stray)
    imported = gather(file, FORMAT, records, _memory)
    return imported.model_copy(update={"skipped": (*imported.skipped, *stray), "counts_use": True})


def dump_ace(memories: Iterable[Memory]) -> str:
    """Return a text playbook, one line per memory; ids that playbooks gave are kept where they are free."""
    sections: dict[str, list[str]] = {}
    taken: set[str] = set()
    for number, memory in enumerate(memories, 1):
        kept = kept_of(memory, FORMAT)
        section = " ".join(str(kept.get("section") or _SECTIONS.get(memory.kind, _REST)).split())
        id_ = str(kept.get("id") or "")
        if not _ID.fullmatch(id_) or id_ in taken:
            id_ = _free_id(section, number, taken)
        taken.add(id_)
        wins, losses = memory.utility.wins, memory.utility.recalls - memory.utility.wins
        line = f"[{id_}] helpful={wins} harmful={losses} :: {_one_line(memory)}"
        sections.setdefault(section, []).append(line)
    return "\n\n".join("\n".join([f"## {name}", *lines]) for name, lines in sections.items()) + "\n"


def _bullets(text: str, stray: list[Skipped]) -> Iterator[Record]:
    """Yield bullets with their section; a line without a bullet's head goes on with the bullet above it.

    A broken bullet is a fault and ends the one above: neither it nor what follows it was said there.
    """
    section, open_ = "", False
    place, fields = "", dict[str, Any]()
    for number, line in enumerate(text.split("\n"), 1):
        found = BULLET.match(line)
        is_heading = not found and line.startswith("#")
        is_broken = not found and not is_heading and bool(_BROKEN_BULLET.match(line))
        if found or is_broken or is_heading:
            if open_:
                yield Record(place, clean(fields))
            open_ = bool(found)
        if found:
            id_, helpful, harmful, content = found.groups()
            place = f"line {number}"
            fields = {"id": id_, "section": section, "helpful": int(helpful), "harmful": int(harmful)}
            fields["content"] = content.rstrip()
        elif is_heading:
            section = line.lstrip("#").strip()
        elif is_broken:
            yield Record(f"line {number}", RecordError(_NO_BULLET))
        elif line.strip() and open_:
            fields["content"] += " " + line.strip()
        elif line.strip():
            stray.append(
                Skipped(place=f"line {number}", reason="is no bullet and follows none that can be read")
            )
    if open_:
        yield Record(place, clean(fields))


def _objects(path: Path, text: str) -> Iterator[Record]:
    """Yield the bullets of a JSON playbook, or the one fault of a file that is none."""
    try:
        whole = wants_mapping(clean(whole_or_lines(path, text)[0]))
        name = next((name for name in ("bullets", "skills") if name in whole), "")
        found = whole.get(name)
        if not isinstance(found, (dict, list)):
            raise RecordError("has no `bullets`")
    except RecordError as error:
        yield Record("line 1", error)
        return
    items = found.items() if isinstance(found, dict) else enumerate(found)
    yield from (Record(f"{name}[{key}]", item) for key, item in items)


def _memory(value: Any) -> Memory:
    record = wants_mapping(value)
    more = record.get("metadata")
    counts = more if isinstance(more, Mapping) else record
    helpful, harmful = count(counts.get("helpful")), count(counts.get("harmful"))
    section = text_of(record, "section")
    rest = {name: item for name, item in record.items() if name not in ("content", "helpful", "harmful")}
    return candidate(
        FORMAT,
        kind=_kind(section),
        content=text_of(record, "content"),
        utility=Utility(recalls=helpful + harmful, wins=helpful),
        created_at=moment(record.get("created_at")),
        rest={**rest, "section": " ".join(section.split())},
    )


def _kind(section: str) -> str:
    name = section.casefold()
    return next((kind for kind, words in _KIND_WORDS if any(word in name for word in words)), "insight")


def _free_id(section: str, number: int, taken: set[str]) -> str:
    words = re.findall(r"[a-z]+", section.casefold())
    slug = words[0][:3] if words else "mem"
    while f"{slug}-{number:05d}" in taken:
        number += 1
    return f"{slug}-{number:05d}"


def _one_line(memory: Memory) -> str:
    if memory.when_to_use == memory.content or not memory.when_to_use:
        return " ".join(memory.content.split())
    return " ".join(f"{memory.when_to_use}: {memory.content}".split())
