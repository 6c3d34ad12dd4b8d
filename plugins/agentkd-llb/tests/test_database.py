"""The database takes any statement of a model and gives nothing away but its one table."""

from __future__ import annotations

import time

import pytest
from agentkd_llb.data import Table
from agentkd_llb.database import MAX_SHOWN_CHARS, Answered, Database, render_rows

TABLE = Table("stock", (("id", "INT"), ("item", "TEXT")), tuple((n, f"item {n}") for n in range(30)))


@pytest.fixture
def database():
    made = Database(TABLE)
    yield made
    made.close()


@pytest.mark.parametrize(
    "hostile",
    [
        "ATTACH DATABASE '{file}' AS other",
        "VACUUM INTO '{file}'",
        "PRAGMA journal_mode = WAL",
        "PRAGMA writable_schema = 1",
        "SELECT load_extension('{file}')",
        "SELECT readfile('/etc/passwd')",
        "SELECT writefile('{file}', 'x')",
        "CREATE TABLE more(x)",
        "CREATE TEMP TABLE more(x)",
        "CREATE VIRTUAL TABLE v USING fts5(x)",
        "CREATE TRIGGER t AFTER INSERT ON stock BEGIN SELECT 1; END",
        "DROP TABLE stock",
        "ALTER TABLE stock RENAME TO other",
        "UPDATE sqlite_master SET sql = 'x'",
        "DELETE FROM sqlite_master",
        "BEGIN",
        "SAVEPOINT s",
        "SELECT 1; DELETE FROM stock",
        "SELECT 1\0; DELETE FROM stock",
        "",
    ],
)
def test_what_reaches_beyond_the_table_is_refused(database, tmp_path, hostile):
    file = tmp_path / "out.db"
    answered = database.execute(hostile.format(file=file))
    assert answered.error or not answered.rows
    assert not file.exists()
    assert database.state() == TABLE.rows
    assert database.execute("SELECT COUNT(*) FROM stock").rows == ((30,),)


@pytest.mark.parametrize(
    "endless",
    [
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n",
        "WITH RECURSIVE n(i) AS (SELECT hex(zeroblob(4000)) UNION ALL SELECT hex(zeroblob(4000)) FROM n) "
        "SELECT COUNT(DISTINCT i) FROM n",
        "SELECT COUNT(*) FROM stock a, stock b, stock c, stock d, stock e",
        "INSERT INTO stock "
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i, 'x' FROM n",
    ],
)
def test_runaway_statements_are_stopped_and_undone(database, endless):
    started = time.monotonic()
    assert "too much work" in database.execute(endless).error
    assert time.monotonic() - started < 10
    assert database.state() == TABLE.rows


def test_results_values_and_statements_have_ceilings(database):
    assert "more than 500 rows" in database.execute("SELECT 1 FROM stock a, stock b").error
    assert "too big" in database.execute("SELECT zeroblob(20000)").error
    assert "longer than" in database.execute("SELECT 1 --" + "x" * 9000).error


def test_changes_of_the_table_are_counted_and_kept(database):
    deleted = database.execute("DELETE FROM stock WHERE id < 10")
    assert (deleted.n_changed, deleted.is_change, deleted.error) == (10, True, "")
    assert len(database.state()) == 20
    nothing = database.execute("DELETE FROM stock WHERE id > 99")
    assert (nothing.n_changed, nothing.is_change) == (0, True)


def test_a_shown_result_is_cut_after_a_whole_row():
    rows = tuple((n, "x" * 40) for n in range(100))
    shown = render_rows(Answered(rows, ("id", "text")))
    assert len(shown) < MAX_SHOWN_CHARS + 20
    assert shown.endswith('"], ...] (100 rows)')
    assert render_rows(Answered()) == "[]"


def test_mysqls_deviation_is_known(database):
    assert database.execute("SELECT STDDEV(id) FROM stock WHERE id IN (2, 4)").rows == ((1.0,),)
    assert database.execute("SELECT STDDEV(id) FROM stock WHERE id > 99").rows == ((None,),)


def test_the_state_is_read_whatever_the_statements_left(database):
    more = (
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 20000) "
        "INSERT INTO stock SELECT n, 'x' FROM c"
    )
    assert not database.execute("UPDATE stock SET item = CAST(x'ff' AS TEXT)").error
    assert not any(database.execute(more).error for _ in range(6))
    rows = database.state()
    assert len(rows) == 30 + 6 * 20_000
    assert (0, "\ufffd") in rows
