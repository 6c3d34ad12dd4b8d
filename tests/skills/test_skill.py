"""Skills are read by the specification, listed briefly, and never leak a file outside their folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkd import hookimpl
from agentkd.errors import DataError, NotFoundError
from agentkd.plugins import PluginHost
from agentkd.skills import SkillLibrary, find_skills, read_skill_file, skill_dirs
from agentkd.tools import read_skill

ROOT = Path(__file__).resolve().parents[2]
OURS = sorted((ROOT / "skills").glob("*/SKILL.md"))
GOOD = """---
name: make-tea
description: Make tea. Use it when somebody is thirsty.
license: Apache-2.0
allowed-tools: kettle cup
metadata:
  version: 1.0
  author: a friend
---

# Tea

Boil water.
"""


def write(folder: Path, name: str = "make-tea", text: str = GOOD) -> Path:
    (folder / name).mkdir(parents=True, exist_ok=True)
    path = folder / name / "SKILL.md"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_skill_is_read_as_written(tmp_path: Path) -> None:
    skill = read_skill_file(write(tmp_path))
    assert (skill.name, skill.license) == ("make-tea", "Apache-2.0")
    assert skill.allowed_tools == ("kettle", "cup")
    assert skill.metadata == {"version": "1.0", "author": "a friend"}
    assert skill.body.startswith("# Tea")


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("---\nname", "name", 1, "must begin with front matter"),
        ("---\n\n# Tea", "\n# Tea", 12, "is not closed"),
        ("license:", "licence:", 4, "did you mean `license`"),
        ("name: make-tea", "name: Make-Tea", 2, "cannot be a skill's name"),
        ("name: make-tea", "name: make--tea", 2, "cannot be a skill's name"),
        ("name: make-tea", "name: brew-tea", 2, "lies in the folder `make-tea`"),
        ("name: make-tea", "name: [a, b]", 2, "is not a text"),
        ("description: Make tea.", "description: " + "x" * 1025, 3, "1024 are allowed"),
        (
            "description: Make tea. Use it when somebody is thirsty.",
            "description:",
            3,
            "has no `description`",
        ),
        ("license: Apache-2.0", "name: make-tea", 4, "twice"),
        ("license: Apache-2.0", "license: 'open", 8, "not valid YAML"),
        ("metadata:\n  version: 1.0\n  author: a friend", "metadata: none", 6, "is not a mapping"),
    ],
)
def test_an_error_names_file_and_line(tmp_path: Path, old: str, new: str, line: int, said: str) -> None:
    assert old in GOOD
    path = write(tmp_path, text=GOOD.replace(old, new, 1))
    with pytest.raises(DataError) as caught:
        read_skill_file(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.context["line"] == line


def test_a_folder_without_the_file_and_a_binary_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no `SKILL.md`"):
        read_skill_file(tmp_path / "SKILL.md")
    path = write(tmp_path)
    path.write_bytes(b"---\n\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8"):
        read_skill_file(path)


def test_a_yaml_tag_builds_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    text = GOOD.replace("Apache-2.0", f"!!python/object/apply:os.system ['touch {marker}']")
    with pytest.raises(DataError):
        read_skill_file(write(tmp_path, text=text))
    assert not marker.exists()


def test_two_skills_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b")
    with pytest.raises(DataError, match="two skills are called `make-tea`"):
        find_skills([tmp_path / "a", tmp_path / "b"])
    assert len(find_skills([tmp_path / "a", tmp_path / "a", tmp_path / "missing"])) == 1


def test_cards_are_brief(tmp_path: Path) -> None:
    write(tmp_path, text=GOOD.replace("somebody is thirsty", "x" * 400))
    (card,) = SkillLibrary(find_skills([tmp_path])).cards
    assert (card.name, card.description) == ("make-tea", "Make tea.")


def test_plugins_offer_folders(tmp_path: Path) -> None:
    class Plugin:
        @hookimpl
        def skills(self) -> list[Path]:
            return [tmp_path / "offered"]

    host = PluginHost(auto=False)
    host.add(Plugin(), "tea")
    assert skill_dirs(host.hooks, [tmp_path / "own"]) == [tmp_path / "own", tmp_path / "offered"]


@pytest.fixture
def library(tmp_path: Path) -> SkillLibrary:
    write(tmp_path / "skills")
    (tmp_path / "skills/make-tea/references").mkdir()
    (tmp_path / "skills/make-tea/references/green.md").write_text("70 degrees")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "skills/make-tea/link.txt").symlink_to(tmp_path / "secret.txt")
    return SkillLibrary(find_skills([tmp_path / "skills"]))


def test_files_inside_are_read(library: SkillLibrary) -> None:
    assert library.read("make-tea").startswith("# Tea")
    assert library.read("make-tea", "references/green.md") == "70 degrees"


@pytest.mark.parametrize(
    "file",
    ["../../secret.txt", "/etc/passwd", "link.txt", "references/../../../secret.txt",
     "..\\..\\secret.txt", "C:\\x", "", ".", "references", "a\0b", "none.md"],
)  # fmt: skip
def test_nothing_outside_is_read(library: SkillLibrary, file: str) -> None:
    with pytest.raises(NotFoundError, match="has no file"):
        library.read("make-tea", file)


@given(
    st.lists(st.sampled_from(["..", ".", "references", "/", "secret.txt", "link.txt", "\\", "~"]), max_size=6)
)
def test_no_combination_of_parts_leaves_the_folder(parts: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root / "skills")
        (root / "secret.txt").write_text("secret")
        (root / "skills/secret.txt").write_text("secret")
        os.symlink(root, root / "skills/make-tea/references")
        try:
            text = SkillLibrary(find_skills([root / "skills"])).read("make-tea", "/".join(parts))
        except NotFoundError:
            return
        assert "secret" not in text


def test_the_tool_opens_a_skill_and_errs_in_words(library: SkillLibrary) -> None:
    opened = read_skill(library)
    assert opened.spec.name == "read_skill"
    assert "make-tea" in opened.spec.description
    assert opened.call({"name": "make-tea"}).content.startswith("# Tea")
    assert opened.call({"name": "make-tea", "file": "references/green.md"}).content == "70 degrees"
    assert "did you mean `make-tea`" in opened.call({"name": "make-te"}).error


def test_our_own_skills_are_three() -> None:
    assert [path.parent.name for path in OURS] == ["call-a-tool-exactly", "read-a-report", "run-a-cycle"]


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.parent.name)
def test_our_own_skills_follow_the_specification(path: Path) -> None:
    skill = read_skill_file(path)
    assert len(skill.body.splitlines()) < 500
    command = [sys.executable, "-m", "skills_ref.cli", "validate", str(path.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
