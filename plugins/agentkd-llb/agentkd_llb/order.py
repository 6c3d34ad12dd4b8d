"""How far the order of an answer matters: rows that the accepted statement sorts alike may change places.

MySQL and SQLite put rows with equal sort keys in different orders, and both are right. So the keys are read
beside the rows, and the answer is compared tie by tie.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby, pairwise

from agentkd_llb.data import Cell, Row
from agentkd_llb.database import Database

__all__ = ["Rows", "accepted_rows", "same_order", "same_rows"]

RELATIVE = 1e-4
"""Numbers so near are equal: MySQL rounds an average to four digits, SQLite does not."""

_HIDDEN = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|`[^`]*`")
_INNER = re.compile(r"\([^()]*\)")
_DIRECTION = re.compile(r"\s+(asc|desc)\s*$", re.IGNORECASE)

Rows = Sequence[Sequence[Cell]]
"""A result."""


def accepted_rows(row: Row) -> list[Rows]:
    """Return the accepted rows in groups: the order of groups matters, the order within a group does not.

    A statement without ORDER BY gives one group. Where SQLite's rows are not the published ones, the
    published order stands as it is.
    """
    published = row.answer or ()
    terms = _sort_terms(row.sql)
    if not terms:
        return [published]
    played, keys = _with_keys(row, terms)
    if not same_rows(published, played):
        return [[each] for each in published]
    numbered = zip(keys, played, strict=True)
    return [[each for _, each in group] for _, group in groupby(numbered, key=lambda pair: pair[0])]


def same_order(groups: Sequence[Rows], found: Rows) -> bool:
    """Whether rows are the accepted ones in an accepted order."""
    if sum(map(len, groups)) != len(found):
        return False
    start = 0
    for group in groups:
        if not same_rows(group, found[start : start + len(group)]):
            return False
        start += len(group)
    return True


def same_rows(left: Rows, right: Rows) -> bool:
    """Whether two results hold the same rows in any order: numbers within 1e-4 of them, the rest exactly."""
    if len(left) != len(right):
        return False
    rest = list(right)
    for row in left:
        position = next((i for i, other in enumerate(rest) if _same_row(row, other)), None)
        if position is None:
            return False
        del rest[position]
    return True


def _same_row(left: Sequence[Cell], right: Sequence[Cell]) -> bool:
    return len(left) == len(right) and all(map(_same_cell, left, right))


def _same_cell(left: Cell, right: Cell) -> bool:
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        try:
            return abs(left - right) <= max(RELATIVE * max(abs(left), abs(right)), 1e-6)
        except OverflowError:  # a model may answer with a number of any length
            return left == right
    return type(left) is type(right) and left == right


def _with_keys(row: Row, terms: Sequence[str]) -> tuple[Rows, list[object]]:
    """Play the accepted statement with its sort keys as further columns.

    Return its rows and a key per row; where the keys cannot be had, every row is a key of its own.
    """
    database = Database(row.table)
    plain = database.execute(row.sql)
    names = [name.lower() for name in plain.columns]
    extra = [term for term in terms if _bare(term) not in names]
    masked = _masked(row.sql)
    start = re.search(r"\bfrom\b", masked, re.IGNORECASE)
    keyed = plain
    if extra and start is not None:
        listed = "".join(f", {term}" for term in extra)
        keyed = database.execute(f"{row.sql[: start.start()]}{listed} {row.sql[start.start() :]}")
    database.close()
    if keyed.error or len(keyed.rows) != len(plain.rows):
        return plain.rows, list(range(len(plain.rows)))
    width = len(names)
    known = [names.index(_bare(term)) for term in terms if _bare(term) in names]
    keys: list[object] = [(tuple(r[i] for i in known), tuple(r[width:])) for r in keyed.rows]
    return [r[:width] for r in keyed.rows], keys


def _sort_terms(sql: str) -> list[str]:
    """Return the terms of the outermost ORDER BY, without their directions."""
    masked = _masked(sql)
    found = re.search(r"\border\s+by\b(?P<terms>.*?)(\blimit\b.*|;?\s*)$", masked, re.IGNORECASE | re.DOTALL)
    if found is None:
        return []
    start, end = found.span("terms")
    commas = [i for i in range(start, end) if masked[i] == ","]
    edges = [start - 1, *commas, end]
    terms = [sql[a + 1 : b] for a, b in pairwise(edges)]
    return [_DIRECTION.sub("", term.strip().rstrip(";")) for term in terms]


def _masked(sql: str) -> str:
    """Return the statement with texts and everything in parentheses blanked out, at equal positions."""
    text = _HIDDEN.sub(lambda m: "x" * len(m[0]), sql)
    while (shorter := _INNER.sub(lambda m: "x" * len(m[0]), text)) != text:
        text = shorter
    return text


def _bare(term: str) -> str:
    """Return the name that a term sorts by: `t.price` sorts by the column `price`."""
    return term.rpartition(".")[2].strip('`" ').lower() if re.fullmatch(r"[\w.`\" ]+", term) else term.lower()
