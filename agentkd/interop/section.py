"""Split Markdown at its headings into parts that are small enough to be shown whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

__all__ = ["Part", "parts_of"]

_HEADING = re.compile(r" {0,3}(#{1,6})(?=[ \t]|$)")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


class Part(NamedTuple):
    """A run of neighbouring sections."""

    trail: tuple[str, ...]
    """Headings that it stands below, the widest one first, its own at the end; empty for the whole text."""
    text: str
    """The sections with their headings."""


class _Section(NamedTuple):
    level: int
    title: str
    text: str
    is_bare: bool


def parts_of(text: str, fits: Callable[[Part], bool]) -> Iterator[Part]:
    """Yield the largest parts that fit, in their order, and whole sections that do not fit however small.

    The whole text is one part where it fits. Lines within a fenced block of code are no headings.
    """
    sections = list(_sections(text))
    whole = Part((), text.strip())
    if fits(whole) or len(sections) == 1:
        yield whole
    else:
        yield from _divided(sections, (), fits)


def _split(
    sections: Sequence[_Section], above: tuple[str, ...], fits: Callable[[Part], bool]
) -> Iterator[Part]:
    first = sections[0]
    trail = (*above, first.title) if first.title else above
    part = Part(trail, "\n".join(section.text for section in sections).strip())
    if all(section.is_bare for section in sections):
        return
    if len(sections) == 1 or fits(part):
        yield part
    else:
        yield from _divided(sections, above, fits)


def _divided(
    sections: Sequence[_Section], above: tuple[str, ...], fits: Callable[[Part], bool]
) -> Iterator[Part]:
    """Divide two sections or more at the widest headings below the first one."""
    first, level = sections[0], min(section.level for section in sections[1:])
    starts = [0, *(at for at, section in enumerate(sections) if at and section.level == level)]
    below = (*above, first.title) if first.title and first.level < level else above
    for start, end in zip(starts, [*starts[1:], len(sections)], strict=True):
        yield from _split(sections[start:end], below if start else above, fits)


def _sections(text: str) -> Iterator[_Section]:
    level, title, lines, fence = 0, "", list[str](), ""
    for line in text.splitlines():
        mark = _FENCE.match(line)
        if mark and (not fence or (line.strip().startswith(fence) and not line.strip().strip(fence[0]))):
            fence = "" if fence else mark[1]
        heading = None if fence else _HEADING.match(line)
        if heading is not None:
            if level or any(map(str.strip, lines)):
                yield _section(level, title, lines)
            level, title, lines = len(heading[1]), _title(line[heading.end() :]), []
        lines.append(line)
    yield _section(level, title, lines)


def _title(rest: str) -> str:
    words = rest.split()
    return " ".join(words[:-1] if words and not words[-1].strip("#") else words)  # `## Title ##`


def _section(level: int, title: str, lines: Sequence[str]) -> _Section:
    said = lines[1:] if level else lines
    return _Section(level, title, "\n".join(lines), not any(map(str.strip, said)))
