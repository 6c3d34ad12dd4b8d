"""A backup is one moment of a workspace that is in use; a restored one goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import agentkd
from agentkd.cli.root import run_command_line
from agentkd.errors import ConfigError, DataError, LockedError, StoreError
from agentkd.hf import check_files
from agentkd.ledger import Ledger
from agentkd.schema import Memory, MemoryKeys, Scope, memory_id
from agentkd.workspace.backup import read_manifest, restore

WRITER = """
import sys, time
from agentkd.ledger import Ledger
from agentkd.schema import Memory, MemoryKeys, Scope, memory_id

with Ledger.open(sys.argv[1]) as ledger:
    for n in range(100_000):
        text = f"writer saw number {n}"
        memory = Memory(id=memory_id("insight", text, text, Scope()), kind="insight", when_to_use=text,
                        content=text, keys=MemoryKeys(situation=text), status="active")
        ledger.memories.admit([memory])
        print(n, flush=True)
"""


def lesson(text: str) -> Memory:
    return Memory(
        id=memory_id("insight", text, text, Scope()), kind="insight", when_to_use=text, content=text,
        keys=MemoryKeys(situation=text), status="active",
    )  # fmt: skip


def recalled(folder: Path, text: str) -> list[tuple[str, float]]:
    with agentkd.Workspace(folder) as workspace:
        hits = workspace.memory.recall(text, k=5, scope=Scope(app="jsonl"))
        return [(hit.memory.id, round(hit.score, 5)) for hit in hits]


def test_a_backup_under_a_writer_is_one_moment_and_restores_to_the_same_workspace(
    cycled: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", WRITER, str(cycled / "ledger.db")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as writer:
        assert writer.stdout is not None
        seen = [int(writer.stdout.readline()) for _ in range(20)][-1]
        with agentkd.Workspace(cycled) as workspace:
            manifest = workspace.backup(tmp_path / "copy")
        assert writer.poll() is None, "it wrote on meanwhile"
        writer.kill()
        later = int(writer.stdout.read().split()[-1])
    assert manifest.missing == ()
    assert manifest.files.keys() > {"ledger.db", "agentkd.toml", "cycles/0001/report.json"}
    assert not [name for name in manifest.files if name.startswith(("index", "signals"))]
    with agentkd.Workspace.restore(tmp_path / "copy", tmp_path / "new") as back:
        back.ledger.check()
        assert back.ledger.counts() == manifest.counts
        written = sum(memory.content.startswith("writer saw") for memory in back.ledger.memories.list())
        assert seen < written <= later + 2
        found = back.memory.check(deep=True)
        assert found.agrees
        assert found.n_memories == len(back.ledger.memories.list())
        with agentkd.Workspace(cycled) as old:
            assert back.datasets() == old.datasets()
            assert back.checkpoints() == old.checkpoints()
            assert back.report() == old.report()
        for checkpoint in back.checkpoints():
            check_files(back.parts.checkpoint_folder(checkpoint.name))
        assert back.cycle().number == 1 + back.report(1).number


def test_what_is_recalled_is_the_same_after_a_restore(cycled: Path, tmp_path: Path) -> None:
    text = "What is the weather of Rome?"
    before = recalled(cycled, text)
    assert before
    with agentkd.Workspace(cycled) as workspace:
        workspace.backup(tmp_path / "copy")
    restore(tmp_path / "copy", tmp_path / "new")
    assert recalled(tmp_path / "new", text) == before


def test_an_index_that_lies_elsewhere_is_made_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It holds what came after the backup and lacks what was put away since: its marks are worth nothing."""
    root, copy = tmp_path / "shop", tmp_path / "copy"
    root.mkdir()
    index = f'[memory]\nembedder = "hashing"\n[index.chroma]\npath = "{tmp_path / "index"}"\n'
    (root / "agentkd.toml").write_text(index, encoding="utf-8")
    first, second = lesson("where is the parcel of the customer"), lesson("bread is baked with yeast")
    with agentkd.Workspace(root) as workspace:
        workspace.memory.admit([first])
        workspace.memory.settle()
        workspace.backup(copy)
    for by_hand in (False, True):
        with agentkd.Workspace(root) as workspace:
            workspace.memory.set_status(first.id, "quarantined", "wrong")
            workspace.memory.admit([second])
            workspace.memory.settle()
        if by_hand:
            agentkd.Workspace.restore(copy, root, force=True).close()
        else:
            assert run_command_line(["-C", str(root), "restore", "--force", str(copy)]) == 0
            assert "1 vectors of 1 memories" in capsys.readouterr().out
        with agentkd.Workspace(root) as workspace:
            assert workspace.memory.check().agrees
            assert [hit.memory.id for hit in workspace.memory.recall(first.content)] == [first.id]
        time.sleep(1.1)  # what was moved away is named by the second


def test_a_damaged_backup_is_refused_whole(cycled: Path, tmp_path: Path) -> None:
    with agentkd.Workspace(cycled) as workspace:
        manifest = workspace.backup(tmp_path / "copy")
    for name in manifest.files:
        file = tmp_path / "copy" / name
        whole = file.read_bytes()
        if not whole:
            continue
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(DataError, match="differs from its sha256"):
            restore(tmp_path / "copy", tmp_path / "new")
        assert not (tmp_path / "new").exists()
        file.write_bytes(whole)
    read_manifest(tmp_path / "copy")
    (tmp_path / "copy" / "backup.json").unlink()
    with pytest.raises(DataError, match="is no backup"):
        restore(tmp_path / "copy", tmp_path / "new")


def test_a_backup_cannot_name_files_outside_itself(tmp_path: Path) -> None:
    with agentkd.Workspace(tmp_path / "shop") as workspace:
        manifest = workspace.backup(tmp_path / "copy")
    (tmp_path / "secret").write_text("x")
    bad = manifest.model_copy(update={"files": {"../secret": "0"}})
    (tmp_path / "copy" / "backup.json").write_text(bad.model_dump_json())
    with pytest.raises(DataError, match="outside itself"):
        restore(tmp_path / "copy", tmp_path / "new")


def test_a_workspace_is_replaced_with_force_only_and_kept_aside(
    cycled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(["-q", "-C", str(cycled), "backup", str(tmp_path / "copy")]) == 0
    with agentkd.Workspace(cycled) as workspace:
        workspace.memory.admit([lesson("a lesson that comes after the backup")])
        counts = workspace.ledger.counts()
    with pytest.raises(ConfigError, match="has a ledger already"):
        restore(tmp_path / "copy", cycled)
    with Ledger.open(cycled / "ledger.db") as other, other.leases.held("cycle", 60.0):
        with pytest.raises(LockedError, match="lease `cycle`"):
            restore(tmp_path / "copy", cycled, force=True)
    capsys.readouterr()
    assert run_command_line(["--json", "-C", str(cycled), "restore", "--force", str(tmp_path / "copy")]) == 0
    out = json.loads(capsys.readouterr().out)
    with Ledger.open(cycled / "ledger.db") as ledger:
        assert ledger.counts() == out["counts"]
    (aside,) = cycled.glob("replaced-*")
    with Ledger.open(aside / "ledger.db") as ledger:
        assert ledger.counts() == counts


def test_files_that_are_gone_are_named_and_the_rest_is_kept(
    cycled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = next(cycled.glob("checkpoints/*/adapter_model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    assert run_command_line(["-C", str(cycled), "backup", str(tmp_path / "copy")]) == 1
    assert weights.parent.name in capsys.readouterr().err
    manifest = read_manifest(tmp_path / "copy")
    assert manifest.missing == (weights.parent.name,)
    assert not [name for name in manifest.files if name.startswith("checkpoints/")]


def test_a_backup_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with agentkd.Workspace(tmp_path / "shop") as workspace:
        with pytest.raises(ConfigError, match="in the workspace itself"):
            workspace.backup(tmp_path / "shop" / "copy")

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(StoreError, match="No space"):
            workspace.backup(tmp_path / "copies" / "one")
    assert not list((tmp_path / "copies").iterdir())


def test_a_restore_that_was_cut_off_is_repeated(
    tmp_path: Path, cycled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with agentkd.Workspace(cycled) as workspace:
        manifest = workspace.backup(tmp_path / "copy")
    replace = os.replace
    for n in range(1, 5):
        moved: list[object] = []

        def cut_off(old: Path, new: Path, n: int = n, moved: list[object] = moved) -> None:
            moved.append(new)
            if len(moved) == n:
                raise KeyboardInterrupt
            replace(old, new)

        monkeypatch.setattr("os.replace", cut_off)
        with pytest.raises(KeyboardInterrupt):
            restore(tmp_path / "copy", tmp_path / "new")
        assert not (tmp_path / "new" / "ledger.db").exists()
        monkeypatch.undo()
    restore(tmp_path / "copy", tmp_path / "new")
    with Ledger.open(tmp_path / "new" / "ledger.db") as ledger:
        assert ledger.counts() == manifest.counts
    assert not list((tmp_path / "new").glob("**/.partial-*"))


@pytest.mark.parametrize("fault", ["damaged", "gone"])
def test_a_restore_replaces_a_ledger_that_cannot_be_opened_and_loses_nothing_beside_it(
    cycled: Path, tmp_path: Path, fault: str
) -> None:
    (cycled / "exports.jsonl").write_text("old\n", encoding="utf-8")
    with agentkd.Workspace(cycled) as workspace:
        manifest = workspace.backup(tmp_path / "copy")
    (cycled / "exports.jsonl").write_text("old\nnewer\n", encoding="utf-8")
    own = cycled / "skills" / "by-hand" / "SKILL.md"
    own.parent.mkdir(parents=True)
    own.write_text("newer than the backup", encoding="utf-8")
    if fault == "damaged":
        (cycled / "ledger.db").write_bytes(b"this is no database, " * 500)
    else:
        (cycled / "ledger.db").unlink()
    _, aside = restore(tmp_path / "copy", cycled, force=True)
    assert aside is not None
    assert (aside / own.relative_to(cycled)).read_text(encoding="utf-8") == "newer than the backup"
    assert (aside / "exports.jsonl").read_text(encoding="utf-8") == "old\nnewer\n"
    assert (cycled / "exports.jsonl").read_text(encoding="utf-8") == "old\n"
    assert list(aside.glob("checkpoints/*/adapter_model.safetensors"))
    assert (aside / "ledger.db").exists() is (fault == "damaged")
    with Ledger.open(cycled / "ledger.db") as ledger:
        assert ledger.counts() == manifest.counts


def test_a_restore_that_was_cut_off_while_it_moved_things_away_loses_none(
    cycled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with agentkd.Workspace(cycled) as workspace:
        manifest = workspace.backup(tmp_path / "copy")
    (cycled / "skills").mkdir(exist_ok=True)
    (cycled / "skills" / "own").write_text("by hand", encoding="utf-8")
    before = {path.relative_to(cycled) for path in cycled.glob("[cds]*/**/*") if path.is_file()}
    replace, moved = os.replace, 0

    def cut_off(old: Path, new: Path) -> None:
        nonlocal moved
        if "replaced-" in str(new):
            moved += 1
            if moved == 3:
                raise KeyboardInterrupt
        replace(old, new)

    monkeypatch.setattr("os.replace", cut_off)
    with pytest.raises(KeyboardInterrupt):
        restore(tmp_path / "copy", cycled, force=True)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="has a ledger already"):
        restore(tmp_path / "copy", cycled)
    time.sleep(1.1)  # what was moved away is named by the second
    restore(tmp_path / "copy", cycled, force=True)
    kept = {path.relative_to(aside) for aside in cycled.glob("replaced-*") for path in aside.rglob("*")}
    assert before <= kept
    with Ledger.open(cycled / "ledger.db") as ledger:
        assert ledger.counts() == manifest.counts
