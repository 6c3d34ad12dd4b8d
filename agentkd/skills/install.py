"""Take skills from an archive: unpacked aside, read and checked, and moved in as whole folders."""

from __future__ import annotations

import hashlib
from pathlib import Path

from agentkd.archive import Limits, open_archive
from agentkd.errors import ConfigError, DataError
from agentkd.files import aside_folder, put_in_place
from agentkd.skills.parse import Skill, read_skill_file
from agentkd.skills.place import move_in, put_back

__all__ = ["LIMITS", "install_skills"]

LIMITS = Limits(entries=2000, n_bytes=64 << 20, depth=12)
"""What an archive of skills may hold."""


def install_skills(
    archive: Path, folder: Path, *, sha256: str = "", replace: bool = False
) -> tuple[str, list[Skill]]:
    """Unpack the skills of `archive`, each a folder with a `SKILL.md`, below `folder`.

    Returns the archive's sha256 and the skills. Nothing is moved in unless all of them are sound, and after
    an error those that were there are there again. Scripts that a skill brings are text like the rest: no
    file can be executed.

    Raises DataError for an archive that could do harm, that holds no skills or something beside them, or
    whose sha256 is another than the one that is wanted; ConfigError where a skill exists and `replace` is
    False.
    """
    if not archive.is_file():
        raise DataError(f"`{archive}` is no file", path=str(archive))
    with archive.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if sha256 and digest != sha256.lower():
        raise DataError(
            f"archive `{archive}` has the sha256 {digest}, but {sha256} is wanted",
            hint="nothing was unpacked; ask where the file came from",
            path=str(archive),
        )
    folder.mkdir(parents=True, exist_ok=True)
    put_back(folder)
    with aside_folder(folder) as scratch:
        aside = scratch / "new"
        with open_archive(archive, LIMITS) as found:
            found.unpack(aside)
        skills = [_moved(skill, folder) for skill in _read(archive, aside)]
        for skill in skills:
            if skill.path.exists() and not replace:
                raise ConfigError(
                    f"`{skill.path}` exists already", hint="pass `--replace`", path=str(skill.path)
                )
        move_in(aside, [skill.name for skill in skills], folder)
    return digest, skills


def _read(archive: Path, aside: Path) -> list[Skill]:
    stray = sorted(path.name for path in aside.iterdir() if not (path / "SKILL.md").is_file())
    if stray or not any(aside.iterdir()):
        what = f"holds `{stray[0]}`, which is no skill" if stray else "is empty"
        raise DataError(
            f"archive `{archive}` {what}",
            hint="it must hold folders with a `SKILL.md` and nothing else; nothing was taken over",
            path=str(archive),
        )
    return [_named(archive, path) for path in sorted(aside.iterdir())]


def _named(archive: Path, path: Path) -> Skill:
    """Read a skill and let its folder have its very name: macOS writes names with their accents apart."""
    skill = read_skill_file(path)
    place = path.with_name(skill.name)
    if place.exists() and not place.samefile(path):
        raise DataError(f"archive `{archive}` holds the skill `{skill.name}` twice", path=str(archive))
    put_in_place(path, place)
    return skill


def _moved(skill: Skill, folder: Path) -> Skill:
    return skill.model_copy(update={"path": folder / skill.name})
