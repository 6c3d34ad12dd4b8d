"""Find skills in folders, list them briefly for a prompt, and read their files safely."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from agentkd import hookspecs
from agentkd.errors import DataError, NotFoundError, PluginError
from agentkd.plugins import Hooks, nearest
from agentkd.schema import Value
from agentkd.skills.parse import MAX_FILE_BYTES, Skill, read_skill_file

__all__ = ["SkillCard", "SkillLibrary", "find_skills", "skill_dirs"]

BRIEF_CHARS = 200


class SkillCard(Value):
    """What a prompt says about a skill."""

    name: str
    """Name to open it by."""
    description: str
    """When to use it, at most 200 characters."""


def skill_dirs(hooks: Hooks, extra: Iterable[Path] = ()) -> list[Path]:
    """Return the folders that hold skills: `extra` first, then those that plugins offer, each once."""
    offered = []
    for plugin, folder in hooks.offers(hookspecs.skills):
        if not isinstance(folder, str | Path):
            raise PluginError(f"plugin `{plugin}` offered `{folder!r}` as a folder of skills", plugin=plugin)
        offered.append(Path(folder))
    return list(dict.fromkeys([*map(Path, extra), *offered]))


def find_skills(dirs: Iterable[Path]) -> list[Skill]:
    """Read every skill of these folders, sorted by name; a folder that does not exist holds none.

    Raises DataError for a broken `SKILL.md` and for two skills of one name.
    """
    found: dict[str, Skill] = {}
    for folder in dirs:
        for path in sorted(folder.glob("*/SKILL.md")) if folder.is_dir() else ():
            skill = read_skill_file(path)
            other = found.get(skill.name)
            if other is not None and other.path.resolve() != skill.path.resolve():
                raise DataError(
                    f"two skills are called `{skill.name}`: `{other.path}` and `{skill.path}`",
                    hint="rename one of the folders and its `name`",
                )
            found.setdefault(skill.name, skill)
    return [found[name] for name in sorted(found)]


class SkillLibrary:
    """A set of skills that an agent may open."""

    def __init__(self, skills: Sequence[Skill]) -> None:
        self._skills = {skill.name: skill for skill in skills}

    @property
    def names(self) -> list[str]:
        """Return the names in their order."""
        return list(self._skills)

    @property
    def cards(self) -> list[SkillCard]:
        """Return one short card per skill."""
        return [
            SkillCard(name=skill.name, description=_brief(skill.description))
            for skill in self._skills.values()
        ]

    def get(self, name: str) -> Skill:
        """Return a skill; raises NotFoundError with the nearest name."""
        if name not in self._skills:
            raise NotFoundError(f"no skill is called `{name}`", hint=nearest(name, self._skills))
        return self._skills[name]

    def read(self, name: str, file: str = "SKILL.md") -> str:
        """Return a skill's instructions, or the text of another file of its folder.

        Raises NotFoundError for a file outside the folder, through a link or not, and DataError for one
        that is no text or too large.
        """
        skill = self.get(name)
        if file == "SKILL.md":
            return skill.body
        path = _inside(skill, file)
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"`{file}` of skill `{name}` is larger than {MAX_FILE_BYTES // 1024} KiB")
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"`{file}` of skill `{name}` is not text") from error


def _inside(skill: Skill, file: str) -> Path:
    """Resolve a relative path and prove that it is a plain file below the skill's real folder."""
    relative = PurePosixPath(file.replace("\\", "/"))
    root = skill.path.resolve()
    unsafe = relative.is_absolute() or ".." in relative.parts or "\0" in file or ":" in file
    path = root if unsafe else (root / relative).resolve()
    if unsafe or not path.is_relative_to(root) or not path.is_file():
        known = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
        raise NotFoundError(f"skill `{skill.name}` has no file `{file}`", hint=nearest(file, known[:50]))
    return path


def _brief(text: str) -> str:
    if len(text) <= BRIEF_CHARS:
        return text
    sentence = text.partition(". ")[0] + "."
    return sentence if len(sentence) <= BRIEF_CHARS else text[: BRIEF_CHARS - 1].rstrip() + "…"
