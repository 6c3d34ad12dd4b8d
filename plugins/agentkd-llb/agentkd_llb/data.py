"""The tasks as the benchmark published them, read from a folder and never copied."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentkd.errors import ConfigError, DataError

__all__ = ["Cell", "Row", "Table", "find_folder", "read_rows"]

Cell = str | int | float | None
"""A value in a table."""

_PLACE = Path("shared") / "data" / "llb"
_TYPES = frozenset({"INT", "INTEGER", "TEXT", "REAL", "FLOAT", "DOUBLE", "DATE", "DATETIME"})


@dataclass(frozen=True)
class Table:
    """The one table of a task."""

    name: str
    """Its name."""
    columns: tuple[tuple[str, str], ...]
    """Names and types of its columns."""
    rows: tuple[tuple[Cell, ...], ...]
    """Its rows at the beginning."""


@dataclass(frozen=True)
class Row:
    """One task with its answer."""

    key: str
    """Key in the file: a number."""
    instruction: str
    """The request."""
    sql: str
    """Accepted statement."""
    answer: tuple[tuple[Cell, ...], ...] | None
    """Accepted rows; None where the table's state after the accepted statement counts."""
    table: Table
    """The table that it is about."""
    skills: tuple[str, ...]
    """What it exercises, in the benchmark's words."""


def find_folder(path: str = "") -> Path:
    """Return the folder of the data; raises ConfigError where it is nowhere."""
    named = path or os.environ.get("AGENTKD_LLB", "")
    if named:
        folders = [Path(named).expanduser()]
    else:
        shared = os.environ.get("AGENTKD_DATA", "")
        here = Path.cwd()
        folders = [Path(shared).expanduser() / "llb"] if shared else []
        folders += [parent / _PLACE for parent in (here, *here.parents)]
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        raise ConfigError(
            f"the tasks of LifelongAgentBench are not at `{folders[0]}`",
            hint="put `db_train.json` (repository MemTensor/MemRL, MIT) into a folder and name it as `path` "
            "in `[suite.llb-db]` or as AGENTKD_LLB",
            key="path",
        )
    return found


def read_rows(file: Path) -> list[Row]:
    """Read every task of a file; raises DataError naming the key of a broken one."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no file `{file}`",
            hint="name the folder as `path` and the file as `file` in `[suite.llb-db]`",
            key="file",
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(f"`{file}` is not readable as JSON: {error}", path=str(file)) from error
    if not isinstance(found, dict) or not found:
        raise DataError(f"`{file}` must hold an object of tasks by key", path=str(file))
    return [_row(key, data, file) for key, data in found.items()]


def _row(key: str, data: Any, file: Path) -> Row:
    try:
        answer = data["answer_info"]["direct"]
        return Row(
            key=str(int(key)),
            instruction=_text(data["instruction"]),
            sql=_text(data["answer_info"]["sql"]),
            answer=None if answer is None else tuple(_cells(row) for row in answer),
            table=_table(data["table_info"]),
            skills=tuple(_text(skill) for skill in data.get("skill_list", ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"task `{key}` of `{file}` is not in the benchmark's shape: {type(error).__name__}: {error}",
            hint="every task needs instruction, answer_info (direct, sql) and table_info "
            "(name, column_info_list, row_list)",
            path=str(file),
        ) from error


def _table(data: Mapping[str, Any]) -> Table:
    columns = tuple((_text(c["name"]), _type(c.get("type", ""))) for c in data["column_info_list"])
    rows = tuple(_cells(row) for row in data["row_list"])
    if not columns or any(len(row) != len(columns) for row in rows):
        raise ValueError(f"table `{data['name']}` has rows of another width than its {len(columns)} columns")
    return Table(_text(data["name"]), columns, rows)


def _cells(row: Any) -> tuple[Cell, ...]:
    cells = tuple(row) if isinstance(row, (list, tuple)) else (row,)
    if not all(cell is None or isinstance(cell, (str, int, float)) for cell in cells):
        raise ValueError(f"a row holds more than texts and numbers: {cells!r}")
    return cells


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError(f"{value!r} is not a text")
    return value.strip()


def _type(name: Any) -> str:
    return str(name).upper() if str(name).upper() in _TYPES else "TEXT"
