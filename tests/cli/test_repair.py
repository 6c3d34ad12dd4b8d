"""`doctor --repair` compares indexes with the ledger by their ids, and makes anew what differs."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

import agentkd
from agentkd.cli.machine import look_at_workspace
from agentkd.ledger import Ledger
from agentkd.memory import probe
from agentkd.schema import Memory, MemoryKeys, Scope, memory_id

from .conftest import Cli

MEMORY = '[memory]\nembedder = "hashing"\nmin_score = 0.1\n'


def lesson(text: str) -> Memory:
    return Memory(
        id=memory_id("insight", text, text, Scope()),
        kind="insight",
        when_to_use=text,
        content=text,
        keys=MemoryKeys(situation=text),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A workspace with ten memories."""
    (tmp_path / "agentkd.toml").write_text(MEMORY)
    with agentkd.Workspace(tmp_path) as workspace:
        workspace.memory.admit([lesson(f"book table number {at}") for at in range(10)])
    return tmp_path


def repaired(cli: Cli, folder: Path) -> tuple[int, dict[str, dict[str, str]]]:
    done = cli("-C", folder, "doctor", "--repair", "--json")
    return done.code, {check["name"]: check for check in done.json}


def test_a_sound_workspace_needs_nothing(cli: Cli, folder: Path) -> None:
    code, checks = repaired(cli, folder)
    assert code == 0
    assert checks["index"]["detail"] == "agrees: 10 vectors of 10 memories"
    assert "whole" in checks["ledger"]["detail"]


def test_a_vector_lost_beside_one_too_many_is_found_and_mended(cli: Cli, folder: Path) -> None:
    with agentkd.Workspace(folder) as workspace:
        index, known = workspace.memory._index, lesson("book table number 3")
        from agentkd.memory.scope import partition_of

        index.delete([known.id], partition_of(Scope()))
        vector = workspace.memory.embedder.embed(["x"])
        index.add(["mem-ghost/task"], vector, ["mem-ghost"], ["task"], partition_of(Scope()))
        assert index.count() == 10
        assert workspace.memory.check().memory_ids == tuple(sorted((known.id, "mem-ghost")))
    code, checks = repaired(cli, folder)
    assert code == 0
    assert checks["index"]["detail"].startswith("1 missing, 1 too many; made anew from the ledger")
    with agentkd.Workspace(folder) as workspace:
        assert workspace.memory.check().agrees
        assert workspace.memory.recall("book table number 3")[0].memory.id == known.id


def test_lost_words_and_an_unfinished_build_are_mended(cli: Cli, folder: Path) -> None:
    with agentkd.Workspace(folder) as workspace:  # so many that their events are not followed again
        workspace.memory.admit([lesson(f"cancel parcel number {at}") for at in range(250)])
    with agentkd.Workspace(folder) as workspace:
        workspace.memory._words.change([], [lesson("book table number 3").id])
        workspace.memory._index.aside()
    code, checks = repaired(cli, folder)
    assert code == 0
    assert "1 missing by words, 1 unfinished builds; left-over builds dropped" in checks["index"]["detail"]
    assert repaired(cli, folder)[1]["index"]["detail"].startswith("agrees")


def test_unreadable_index_files_are_thrown_away_and_made_again(cli: Cli, folder: Path) -> None:
    (folder / "index" / "chroma" / "chroma.sqlite3").write_bytes(b"no database" * 200)
    code, checks = repaired(cli, folder)
    assert code == 0
    assert "thrown away" in checks["index files"]["detail"]
    assert checks["index"]["detail"] == "agrees: 10 vectors of 10 memories"


def test_only_what_agentkd_made_is_thrown_away(cli: Cli, folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "mine"
    with (folder / "agentkd.toml").open("a") as file:
        file.write(f'[index.chroma]\npath = "{own}"\n')
    assert repaired(cli, folder)[0] == 0
    (own / "thesis.txt").write_text("years of work")
    (own / "chroma" / "chroma.sqlite3").write_bytes(b"no database" * 200)
    code, checks = repaired(cli, folder)
    assert code == 0
    assert "thrown away" in checks["index files"]["detail"]
    assert (own / "thesis.txt").read_text() == "years of work"


def test_a_server_that_is_down_costs_no_folder(cli: Cli, folder: Path) -> None:
    with (folder / "agentkd.toml").open("a") as file:
        file.write('[index.chroma]\nurl = "http://127.0.0.1:9"\n')
    code, checks = repaired(cli, folder)
    assert code == 1
    assert checks["index"]["status"] == "FAIL"
    assert "server" in checks["index"]["hint"]
    assert (folder / "index" / "chroma" / "chroma.sqlite3").is_file()


def test_half_written_files_go_and_trainings_stay(cli: Cli, folder: Path) -> None:
    old = folder / "datasets" / ".partial-x"
    old.mkdir(parents=True)
    os.utime(old, (time.time() - 7200,) * 2)
    (folder / "datasets" / ".partial-y").mkdir()
    (folder / "checkpoints" / "student@1.partial").mkdir(parents=True)
    code, checks = repaired(cli, folder)
    assert code == 0
    assert checks["folders"]["detail"] == (
        "1 half-written removed; 1 younger than an hour kept; "
        "1 unfinished training kept: a cycle goes on with it"
    )
    assert not old.exists()


def test_a_ledger_with_a_broken_reference_is_beyond_repair(cli: Cli, folder: Path) -> None:
    with sqlite3.connect(folder / "ledger.db") as base:
        base.execute("PRAGMA foreign_keys = OFF")
        base.execute("DELETE FROM memories WHERE id = ?", (lesson("book table number 3").id,))
    base.close()
    code, checks = repaired(cli, folder)
    assert code == 1
    assert checks["ledger"]["status"] == "FAIL"
    assert "index" not in checks


def test_an_index_in_use_is_named_and_nothing_is_done(cli: Cli, folder: Path) -> None:
    with agentkd.Workspace(folder) as owner:
        assert len(owner.memory.recall("book table number 3")) > 0
        code, checks = repaired(cli, folder)
    assert code == 1
    assert "in use by this process" in checks["index"]["detail"]


def test_a_deleted_index_folder_is_no_fault(cli: Cli, folder: Path) -> None:
    shutil.rmtree(folder / "index")
    assert repaired(cli, folder)[1]["index"]["detail"] == "agrees: 10 vectors of 10 memories"


def test_doctor_shows_who_holds_the_lease_of_cycles(folder: Path) -> None:
    def shown() -> tuple[str, str]:
        (check,) = (check for check in look_at_workspace(folder) if check.name == "lease of cycles")
        return check.status, check.detail

    assert shown() == ("PASS", "free, never taken")
    with Ledger.open(folder / "ledger.db") as ledger, ledger.leases.held("cycle", 60.0):
        status, detail = shown()
        assert status == "MISSING", "somebody at work is no fault"
        assert detail.startswith(f"held by process {os.getpid()} on `")
    assert shown() == ("PASS", "free (epoch 1)")


def test_a_vector_that_a_flipped_bit_made_long_is_found_though_it_is_near_to_everything(
    cli: Cli, folder: Path
) -> None:
    from agentkd.memory.scope import partition_of

    with agentkd.Workspace(folder) as workspace:
        index, known = workspace.memory._index, lesson("book table number 3")
        vector = 1e6 * workspace.memory.embedder.embed([known.content])
        index._waiting = index._shelf.most_waiting = 0
        index.add([f"{known.id}/situation"], vector, [known.id], ["situation"], partition_of(Scope()))
    with agentkd.Workspace(folder) as workspace:
        found = workspace.memory.check(deep=True)
        assert (found.n_unfound, found.memory_ids) == (1, (known.id,))
    assert repaired(cli, folder)[0] == 0
    with agentkd.Workspace(folder) as workspace:
        assert workspace.memory.check(deep=True).agrees


def test_an_index_that_ends_the_process_which_reads_it_is_thrown_away(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert probe.main([str(folder / "index")]) == 0
    real = subprocess.run

    def run(command: list[str], **options: object) -> object:
        if "agentkd.memory.probe" in command:
            return subprocess.CompletedProcess(command, -signal.SIGSEGV)
        return real(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", run)
    code, checks = repaired(cli, folder)
    assert code == 0
    assert checks["index files"]["detail"] == "thrown away, unreadable: reading it ends the process"
    assert checks["index"]["detail"] == "agrees: 10 vectors of 10 memories"


def test_a_flipped_bit_in_a_vector_is_found_by_its_own_text_and_mended(cli: Cli, folder: Path) -> None:
    with agentkd.Workspace(folder) as workspace:
        hits = workspace.memory.recall("book table number 3")
        index, known = workspace.memory._index, lesson("book table number 3")
        from agentkd.memory.scope import partition_of

        vector = workspace.memory.embedder.embed(["something else altogether"])
        index.add([f"{known.id}/situation"], vector, [known.id], ["situation"], partition_of(Scope()))
    with agentkd.Workspace(folder) as workspace:
        assert workspace.memory.check().agrees, "by its ids alone"
        found = workspace.memory.check(deep=True)
        assert (found.n_unfound, found.memory_ids) == (1, (known.id,))
    code, checks = repaired(cli, folder)
    assert code == 0
    assert checks["index"]["detail"].startswith("1 not found by their own text; made anew from the ledger")
    with agentkd.Workspace(folder) as workspace:
        again = workspace.memory.recall("book table number 3")
        assert [(hit.memory.id, hit.score) for hit in again] == [(hit.memory.id, hit.score) for hit in hits]
