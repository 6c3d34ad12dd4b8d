"""Skills from an archive come in whole or not at all, and bring neither programs nor permissions."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from agentkd import Workspace
from agentkd.cli import main
from agentkd.errors import ConfigError, DataError
from agentkd.files import own_name
from agentkd.models.scripted import ScriptedModel
from agentkd.schema import Reply, ToolCall
from agentkd.skills import find_skills, install_skills, write_skill
from agentkd.skills.place import REPLACED

TEA = b"---\nname: tea\ndescription: Make tea.\nallowed-tools: shell\n---\n\nBoil water, then call `shell`.\n"

CUP = TEA.replace(b"name: tea", b"name: cup")


def pack(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return path


def test_skills_are_taken_over_with_their_files(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"tea/SKILL.md": TEA, "tea/run.sh": b"exit", "cup/SKILL.md": CUP})
    digest, skills = install_skills(archive, tmp_path / "skills")
    assert digest == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert [skill.name for skill in skills] == [skill.name for skill in find_skills([tmp_path / "skills"])]
    assert not (tmp_path / "skills/tea/run.sh").stat().st_mode & 0o111
    with pytest.raises(ConfigError, match="exists already"):
        install_skills(archive, tmp_path / "skills")
    install_skills(archive, tmp_path / "skills", replace=True, sha256=digest.upper())
    assert sorted(path.name for path in (tmp_path / "skills").iterdir()) == ["cup", "tea"]


def test_a_name_of_which_the_archive_writes_accents_apart_is_one_name(tmp_path: Path) -> None:
    apart = "the\u0301"
    archive = pack(
        tmp_path / "a.zip", {f"{apart}/SKILL.md": TEA.replace(b"name: tea", f"name: {apart}".encode())}
    )
    [skill] = install_skills(archive, tmp_path / "skills")[1]
    assert skill.name == skill.path.name == "th\u00e9"
    assert (skill.path / "SKILL.md").is_file()
    install_skills(archive, tmp_path / "skills", replace=True)
    assert [skill.name for skill in find_skills([tmp_path / "skills"])] == ["th\u00e9"]
    wide = TEA.replace(b"name: tea", "name: \uff54ea".encode())
    with pytest.raises(DataError, match="`tea` twice"):
        install_skills(
            pack(tmp_path / "b.zip", {"tea/SKILL.md": TEA, "\uff54ea/SKILL.md": wide}), tmp_path / "new"
        )


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_a_replacement_that_fails_leaves_every_skill_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    folder = tmp_path / "skills"
    install_skills(pack(tmp_path / "a.zip", {"tea/SKILL.md": TEA, "cup/SKILL.md": CUP}), folder)
    new = {"ale/SKILL.md": TEA.replace(b"tea", b"ale"), "cup/SKILL.md": CUP + b"new", "tea/SKILL.md": TEA}
    replace, moved = os.replace, 0

    def full(old: Path, place: Path) -> None:
        nonlocal moved
        moved += 1
        if moved == n:
            raise OSError(28, "No space left on device")
        replace(old, place)

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        install_skills(pack(tmp_path / "b.zip", new), folder, replace=True)
    monkeypatch.undo()
    assert sorted(path.name for path in folder.iterdir()) == ["cup", "tea"]
    assert (folder / "cup/SKILL.md").read_bytes() == CUP


def test_what_a_killed_replacement_moved_away_is_put_back(tmp_path: Path) -> None:
    folder = tmp_path / "skills"
    [skill] = install_skills(pack(tmp_path / "a.zip", {"tea/SKILL.md": TEA}), folder)[1]
    archive = pack(tmp_path / "b.zip", {"cup/SKILL.md": CUP})
    for write in (lambda: write_skill(skill, replace=True), lambda: install_skills(archive, folder)):
        before = folder / own_name(REPLACED).replace(f"-{os.getpid()}-", "-999999999-")  # nobody's
        before.mkdir()
        (folder / "tea").rename(before / "tea")
        assert find_skills([folder]) == []
        write()
        assert (folder / "tea/SKILL.md").is_file()
        assert not before.exists()


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"tea/SKILL.md": TEA, "../x": b""}, "would leave its folder"),
        ({"tea/SKILL.md": TEA, "notes.txt": b""}, "`notes.txt`, which is no skill"),
        ({"tea/SKILL.md": TEA, "cup/SKILL.md": b"broken"}, "front matter"),
        ({"cup/SKILL.md": TEA}, "lies in the folder `cup`"),
        ({"SKILL.md": TEA}, "which is no skill"),
        ({}, "is empty"),
    ],
)
def test_one_bad_file_keeps_all_out(tmp_path: Path, files: dict[str, bytes], why: str) -> None:
    with pytest.raises(DataError, match=why):
        install_skills(pack(tmp_path / "a.zip", files), tmp_path / "skills")
    assert list((tmp_path / "skills").iterdir()) == []


def test_another_file_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is wanted"):
        install_skills(pack(tmp_path / "a.zip", {"tea/SKILL.md": TEA}), tmp_path / "skills", sha256="0" * 64)


def test_a_skill_grants_no_tool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = pack(tmp_path / "a.zip", {"tea/SKILL.md": TEA})
    Workspace.create(tmp_path / "shop").close()
    assert main(["-C", str(tmp_path / "shop"), "skills", "add", str(archive), "--json"]) == 0
    assert '"tea"' in capsys.readouterr().out
    asked = [
        Reply(tool_calls=(ToolCall(name="read_skill", arguments={"name": "tea"}),)),
        Reply(tool_calls=(ToolCall(name="shell", arguments={"command": "id"}),)),
        Reply(text="done"),
    ]
    settings = {"memory": {"embedder": "hashing", "index": "exact"}}
    with Workspace(tmp_path / "shop", settings=settings) as shop:
        run = shop.agent(model=ScriptedModel(asked), recall=False).run("Make tea.")
    assert "call `shell`" in run.steps[0].results[0].content
    assert "no tool is called `shell`" in run.steps[1].results[0].error
