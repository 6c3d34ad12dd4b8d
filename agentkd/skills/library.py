"""Find skills in folders, list them briefly for a prompt, and read their files safely."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath

from agentkd import hookspecs
from agentkd.errors import DataError, NotFoundError, PluginError
from agentkd.plugins import Hooks, nearest
from agentkd.schema import Value
from agentkd.skills.parse import MAX_FILE_BYTES, Skill, read_skill_file

__all__ = ["MADE_HERE", "SkillCard", "SkillLibrary", "find_skills", "memory_ids_of", "skill_dirs"]

BRIEF_CHARS = 200
MADE_HERE = "agentkd-memories"
"""Key of the metadata with the ids of the memories that a skill was made of."""


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


def memory_ids_of(skill: Skill) -> tuple[str, ...]:
    """Return the ids of the memories that a skill was made of; none for one written by hand."""
    return tuple(skill.metadata.get(MADE_HERE, "").split())


class SkillLibrary:
    """A set of skills that an agent may open, but for those that teach what was taken back since."""

    def __init__(
        self,
        skills: Sequence[Skill],
        taken_back: Callable[[Collection[str]], Collection[str]] = lambda ids: (),
    ) -> None:
        """Put a library together; `taken_back` says, whenever it is asked, which of some memories were."""
        self.skills = tuple(skills)
        """All skills, closed ones included."""
        self._skills = {skill.name: skill for skill in skills}
        self._taken_back = taken_back

    @property
    def closed(self) -> list[str]:
        """Return the names of the skills that teach what was taken back: no agent sees or opens them."""
        made = {name: ids for name, skill in self._skills.items() if (ids := memory_ids_of(skill))}
        gone = set(self._taken_back({id_ for ids in made.values() for id_ in ids})) if made else set()
        return [name for name, ids in made.items() if not gone.isdisjoint(ids)]

    @property
    def names(self) -> list[str]:
        """Return the names of the open skills in their order."""
        closed = self.closed
        return [name for name in self._skills if name not in closed]

    @property
    def cards(self) -> list[SkillCard]:
        """Return one short card per open skill."""
        return [
            SkillCard(name=name, description=_brief(self._skills[name].description)) for name in self.names
        ]

    def get(self, name: str) -> Skill:
        """Return a skill; raises NotFoundError for a closed one, and with the nearest name for no name."""
        names = self.names
        if name not in self._skills:
            raise NotFoundError(f"no skill is called `{name}`", hint=nearest(name, names))
        if name not in names:
            raise NotFoundError(f"skill `{name}` is closed: something that it teaches was taken back")
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
