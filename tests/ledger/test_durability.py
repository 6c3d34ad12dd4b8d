"""A fact is stored whole or not at all, whatever happens to the process, the disk or the file."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from agentkd.errors import DataError, LockedError, MissingExtraError, NotFoundError, StoreError
from agentkd.ledger import Ledger
from agentkd.ledger.body import dump, parse
from agentkd.ledger.database import Database
from agentkd.ledger.migration import prepare

Make = Any


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    """The database below the ledger, for tests that make its disk or lock fail."""
    opened = Database.open(path)
    prepare(opened)
    yield opened
    opened.close()


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


def test_the_file_is_in_wal_mode_with_foreign_keys_and_full_sync(database: Database, path: Path) -> None:
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with database.write() as connection:  # the pragmas are per connection
        pragma = connection.exec_driver_sql
        assert pragma("PRAGMA synchronous").scalar_one() == 2
        assert pragma("PRAGMA foreign_keys").scalar_one() == 1
        assert pragma("PRAGMA busy_timeout").scalar_one() == 30_000


def test_eight_threads_write_without_losing_a_fact(ledger: Ledger, make: Make) -> None:
    memory = make.memory("look it up")
    ledger.memories.admit([memory])

    def write(number: int) -> None:
        ledger.trajectories.begin(make.trajectory(number, success=None, steps=()))
        ledger.memories.record_recall(f"trj-{number}", 0, [make.hit(memory)])
        ledger.trajectories.add_step(f"trj-{number}", make.step(0))
        ledger.trajectories.finish(make.trajectory(number))
        ledger.trajectories.get(f"trj-{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(80)))
    assert ledger.counts()["trajectories"] == 80
    assert ledger.counts()["steps"] == 160
    assert ledger.memories.get(memory.id).utility.wins == 80


def test_two_hundred_trajectories_of_two_steps_take_under_four_seconds_of_processor_time(
    ledger: Ledger, make: Make
) -> None:
    started = time.process_time()
    for number in range(200):
        ledger.trajectories.begin(make.trajectory(number, success=None, steps=()))
        ledger.trajectories.add_step(f"trj-{number}", make.step(0))
        ledger.trajectories.add_step(f"trj-{number}", make.step(1))
        ledger.trajectories.finish(make.trajectory(number))
    assert time.process_time() - started < 4
    assert len(ledger.trajectories.list()) == 200


def test_a_group_of_facts_is_stored_whole_or_not_at_all(ledger: Ledger, make: Make) -> None:
    def fails_half_way() -> None:
        with ledger.transaction():
            ledger.trajectories.finish(make.trajectory(1))
            assert ledger.counts()["trajectories"] == 1
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fails_half_way()
    assert ledger.counts()["trajectories"] == 0
    with ledger.transaction():
        ledger.trajectories.finish(make.trajectory(1))
        ledger.corrections.add(make.correction(1, "trj-1"))
    assert ledger.counts()["corrections"] == 1


def test_a_fact_that_fails_within_a_group_is_undone_alone(ledger: Ledger, make: Make) -> None:
    with ledger.transaction():
        ledger.trajectories.finish(make.trajectory(1))
        with pytest.raises(DataError):
            ledger.datasets.add(make.card(), [make.example(1, memories=("mem-none",))])
        ledger.corrections.add(make.correction(1, "trj-1"))
    assert (ledger.counts()["datasets"], ledger.counts()["corrections"]) == (0, 1)


WRITER = """
import sys
from agentkd.ledger import Ledger
from agentkd.schema import Message, Outcome, Step, Task, Trajectory
ledger = Ledger.open(sys.argv[1])
for n in range(10_000):
    id = f"trj-{n}"
    task = Task(id=f"task-{n}", suite="shop", prompt="x" * 2000)
    steps = tuple(Step(index=i, reply=Message(role="assistant", content="y" * 2000)) for i in range(3))
    whole = Trajectory(id=id, run_id="run-1", task=task, steps=steps, outcome=Outcome(success=True))
    if ledger.trajectories.begin(whole):
        for step in steps:
            ledger.trajectories.add_step(id, step)
        ledger.trajectories.finish(whole)
    print(n, flush=True)
    if n == int(sys.argv[2]):
        break
"""


def test_a_killed_writer_leaves_whole_facts_and_goes_on_to_the_same_count(tmp_path: Path) -> None:
    killed, calm = tmp_path / "killed.db", tmp_path / "calm.db"
    process = writer(killed, 10_000)
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(15)][-1]
    process.send_signal(signal.SIGKILL)
    process.wait()
    with Ledger.open(killed) as ledger:
        ledger.check()
        done = ledger.trajectories.list()
        assert len(done) >= acknowledged + 1, "what was acknowledged is there"
        assert all(len(trajectory.steps) == 3 for trajectory in done)
        last = len(done) + 2
    for path in (killed, calm):
        assert writer(path, last).wait() == 0
    with Ledger.open(killed) as first, Ledger.open(calm) as second:
        assert first.counts() == second.counts()
        assert first.trajectories.unfinished() == []


def writer(path: Path, last: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(last)],
        stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def test_several_processes_open_and_write_one_new_file(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    assert [process.wait() for process in [writer(path, 8) for _ in range(3)]] == [0, 0, 0]
    with Ledger.open(path) as ledger:
        ledger.check()
        assert (ledger.counts()["trajectories"], ledger.counts()["steps"]) == (9, 27)


def test_a_full_disk_is_one_clear_error_and_nothing_half_written(
    database: Database, ledger: Ledger, make: Make
) -> None:
    with database.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    limit = f"PRAGMA max_page_count = {pages + 20}"
    database.close()
    listen(database, limit)
    with pytest.raises(StoreError, match="disk is full") as raised:
        fill(ledger, make)
    written = len(ledger.trajectories.list())
    assert "free some space" in raised.value.hint
    assert ledger.counts()["trajectories"] == written
    assert ledger.counts()["steps"] == 2 * written > 0
    ledger.check()
    database.close()
    listen(database, "PRAGMA max_page_count = 100000")
    assert ledger.trajectories.finish(make.trajectory(written))


def fill(ledger: Ledger, make: Make) -> None:
    for number in range(1000):
        ledger.trajectories.finish(make.trajectory(number, answer="x" * 5000))


def listen(database: Database, pragma: str) -> None:
    sa.event.listen(database.engine, "connect", lambda raw, _: raw.execute(pragma))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_small_real_disk_that_fills_up_keeps_whole_facts(tmp_path: Path, make: Make) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)
    if mount.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        ledger = Ledger.open(disk / "ledger.db")
        with pytest.raises(StoreError, match=r"disk is full|disk I/O error"):
            fill(ledger, make)
        assert len(ledger.trajectories.list()) > 0
        assert all(len(trajectory.steps) == 2 for trajectory in ledger.trajectories.list())
        ledger.check()
        ledger.close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_locked_ledger_names_itself(
    path: Path, database: Database, ledger: Ledger, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentkd.ledger.database.BUSY_SECONDS", 0.5)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LockedError, match=r"`.*ledger\.db` is in use by another process"):
        ledger.trajectories.finish(make.trajectory(1))
    assert ledger.trajectories.list() == [], "readers are not held up"
    other.execute("ROLLBACK")
    assert ledger.trajectories.finish(make.trajectory(1))
    other.close()


def test_a_damaged_file_is_named(path: Path, make: Make) -> None:
    path.write_bytes(b"this is no database, " * 500)
    with pytest.raises(StoreError, match=r"`.*ledger\.db`.*not a database"):
        Ledger.open(path)


def test_a_damaged_page_is_found_and_never_read_as_fine(path: Path, make: Make) -> None:
    with Ledger.open(path) as ledger:
        for number in range(50):
            ledger.trajectories.finish(make.trajectory(number, answer="x" * 3000))
    data = bytearray(path.read_bytes())
    for start in range(20 * 4096, len(data) - 4096, 8192):
        data[start : start + 64] = b"\xff" * 64
    path.write_bytes(bytes(data))
    with pytest.raises(StoreError):
        with Ledger.open(path) as ledger:
            ledger.check()


def test_a_damaged_value_is_an_error_of_the_store(path: Path, ledger: Ledger, make: Make) -> None:
    ledger.trajectories.finish(make.trajectory(1))
    for body in ("{broken", "[]", json.dumps({"id": "trj-1"})):
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE trajectories SET body = ?", (body,))
        with pytest.raises(StoreError, match="cannot be read"):
            ledger.trajectories.get("trj-1")


def test_a_flipped_bit_in_a_stored_value_is_no_other_value(path: Path, ledger: Ledger, make: Make) -> None:
    ledger.trajectories.finish(make.trajectory(1, answer="On its way."))
    ledger.check()
    with sqlite3.connect(path) as connection:
        (body,) = connection.execute("SELECT body FROM trajectories").fetchone()
        flipped = body.replace("On its way.", "On its wax.")
        connection.execute("UPDATE trajectories SET body = ?", (flipped,))
    for look in (ledger.check, lambda: ledger.trajectories.get("trj-1")):
        with pytest.raises(StoreError, match="differs from its checksum"):
            look()
    with sqlite3.connect(path) as connection:  # as an older agentkd wrote it: without a checksum
        connection.execute("UPDATE trajectories SET body = ?", ("{" + body.partition(",")[2],))
    ledger.check()
    assert ledger.trajectories.get("trj-1").answer == "On its way."


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("attempt = 7", "`attempt` 7 beside 0"),
        ("created_at = '2026-01-01 00:00:02.000000'", "has `created_at`"),
        ("created_at = '202x-01-01'", "`trajectories` cannot be read"),
        ("task_id = x'FF'", "`trajectories` holds"),
    ],
)
def test_a_column_that_contradicts_the_value_or_its_type_is_found(
    path: Path, ledger: Ledger, make: Make, change: str, told: str
) -> None:
    ledger.trajectories.finish(make.trajectory(1))
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE trajectories SET {change}")
    with pytest.raises(StoreError, match=told):
        ledger.check()


def test_a_damaged_page_is_found_when_a_ledger_is_opened(path: Path, make: Make) -> None:
    with Ledger.open(path) as ledger:
        for number in range(50):
            ledger.trajectories.finish(make.trajectory(number, answer="x" * 3000))
    data = bytearray(path.read_bytes())
    for start in range(20 * 4096, len(data) - 4096, 8192):
        data[start : start + 64] = b"\xff" * 64
    path.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"damaged|malformed"):
        Ledger.open(path)


def test_a_reader_sees_the_facts_and_writes_none(path: Path, ledger: Ledger, make: Make) -> None:
    ledger.trajectories.finish(make.trajectory(1))
    with Ledger.open(path, read_only=True) as reader:
        assert reader.trajectories.get("trj-1") == make.trajectory(1)
        ledger.trajectories.finish(make.trajectory(2))
        assert len(reader.trajectories.list()) == 2
        with pytest.raises(StoreError, match="read-only"):
            reader.trajectories.finish(make.trajectory(3))
    with pytest.raises(NotFoundError, match="no ledger"):
        Ledger.open(path.parent / "none.db", read_only=True)


def test_odd_paths_are_taken_literally_and_bad_ones_refused(tmp_path: Path, make: Make) -> None:
    odd = tmp_path / "a b%20?#é" / "ledger.db"
    with Ledger.open(odd) as ledger:
        ledger.trajectories.finish(make.trajectory(1))
    assert odd.is_file()
    for bad in (tmp_path, odd / "below", "mysql://host/db", "no such://url"):
        with pytest.raises(StoreError):
            Ledger.open(bad)


def test_a_ledger_can_live_in_memory_for_several_threads(make: Make) -> None:
    with Ledger.open("sqlite://") as ledger, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: ledger.trajectories.finish(make.trajectory(n)), range(20)))
        assert len(list(pool.map(lambda n: ledger.trajectories.get(f"trj-{n}"), range(20)))) == 20


@pytest.mark.skipif(importlib.util.find_spec("psycopg") is not None, reason="the driver is installed")
def test_a_missing_driver_is_named_with_its_extra() -> None:
    with pytest.raises(MissingExtraError, match=r"`psycopg`.*agentkd\[postgres\]"):
        Ledger.open("postgresql://ada@localhost/shop")


def test_importing_agentkd_does_not_import_the_database() -> None:
    code = "import sys, agentkd, agentkd.schema, agentkd.errors; print('sqlalchemy' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "False", done.stderr


def test_no_flipped_bit_of_a_body_passes_also_in_its_checksum() -> None:
    whole = dump({"name": "On its way.", "n": 3})
    assert parse(whole) == {"name": "On its way.", "n": 3}
    for at in range(len(whole)):
        for bit in range(7):
            flipped = whole[:at] + chr(ord(whole[at]) ^ 1 << bit) + whole[at + 1 :]
            with pytest.raises(StoreError):
                parse(flipped)
    assert parse('{"name":"older"}') == {"name": "older"}
