"""Judge a run by playing its statements again: by rows for a question, by the table's state for a change."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from agentkd.schema import Outcome, ToolCall
from agentkd_llb.data import Row
from agentkd_llb.database import Answered, Database
from agentkd_llb.order import Rows, accepted_rows, same_order, same_rows

__all__ = ["ANSWER", "EXECUTE", "Grader"]

EXECUTE = "execute_sql"
"""Tool that runs a statement."""
ANSWER = "answer"
"""Tool that ends a run of many steps."""

_WRONG_ROWS = "the rows are not those that were asked for"


@dataclass(frozen=True)
class _Played:
    """What the statements of a run came to."""

    rows: Rows | None
    """Rows that it answers with; None where there is no answer."""
    state: Rows
    """The table afterwards."""
    n_ran: int
    """Statements that ran without an error."""
    error: str
    """The last error; empty where the last statement ran."""
    has_changed: bool
    """Whether a statement that changes rows ran."""
    is_answered: bool
    """Whether the run came to its end: by `answer`, or by its one statement."""


class Grader:
    """Judges the runs of one task; the accepted statement is played once."""

    def __init__(self, row: Row, *, is_one_step: bool) -> None:
        """Play the accepted statement where the state counts."""
        self._row = row
        self._is_one_step = is_one_step
        self._wanted_state: Rows = ()
        self._wanted = accepted_rows(row) if row.answer is not None else []
        if row.answer is None:
            database = Database(row.table)
            database.execute(row.sql)
            self._wanted_state = database.state()
            database.close()

    def grade(self, calls: Sequence[ToolCall], *, may_tell: bool) -> Outcome:
        """Judge the accepted calls of a run; what differs is described only where `may_tell`."""
        played = self._play(calls[:1] if self._is_one_step else calls)
        wrong = self._wrong(played)
        told = f"{wrong}: {self._difference(played)}" if wrong == _WRONG_ROWS and may_tell else wrong
        return Outcome(
            success=not wrong,
            reward=0.0 if wrong else 1.0,
            parts={
                "valid_sql": float(played.n_ran > 0 and not played.error),
                "answered": float(played.is_answered),
            },
            feedback=told,
            grader="rows" if self._row.answer is not None else "state",
        )

    def _play(self, calls: Sequence[ToolCall]) -> _Played:
        database = Database(self._row.table)
        last, n_ran, has_changed, error = Answered(), 0, False, ""
        for call in calls:
            if call.name == ANSWER and not self._is_one_step:
                state = database.state()
                database.close()
                rows = call.arguments.get("rows")
                given = last.rows if rows is None else _read_rows(rows)
                return _Played(given, state, n_ran, error, has_changed, True)
            if call.name != EXECUTE:
                error = f"there is no tool `{call.name}`"
                continue
            answered = database.execute(str(call.arguments.get("sql", "")))
            error = answered.error
            if not error:
                n_ran, has_changed = n_ran + 1, has_changed or answered.is_change
                last = last if answered.is_change else answered
        state = database.state()
        database.close()
        is_over = self._is_one_step and bool(calls)
        rows = last.rows if is_over and last.columns else None
        return _Played(rows, state, n_ran, error, has_changed, is_over)

    def _wrong(self, played: _Played) -> str:
        """Say what is wrong in words that may be shown to the agent; empty for a right run."""
        if not played.is_answered:
            return "no statement was run" if self._is_one_step else f"the run did not end with `{ANSWER}`"
        if not played.n_ran:
            return f"the statement failed: {played.error}" if played.error else "no statement was run"
        if self._row.answer is None:
            if not played.has_changed:
                return "the request asks for a change, and no row was inserted, updated or deleted"
            is_right = same_rows(self._wanted_state, played.state)
            return "" if is_right else "the table does not hold the right rows after the change"
        if played.has_changed and not same_rows(self._row.table.rows, played.state):
            return "the request is a question, and the table was changed"
        if played.rows is None:
            return f"the statement failed: {played.error}" if played.error else "there are no rows as answer"
        return "" if same_order(self._wanted, played.rows) else _WRONG_ROWS

    def _difference(self, played: _Played) -> str:
        """Say how wrong rows differ from the right ones, without a value of them."""
        wanted, found = self._row.answer or (), played.rows or ()
        widths = (len(wanted[0]) if wanted else 0, len(found[0]) if found else 0)
        if not found:
            return "the answer has no rows, and there should be some"
        if not wanted:
            return "the answer has rows, and there should be none"
        if widths[0] != widths[1]:
            return f"{widths[0]} columns are wanted, not {widths[1]}"
        if len(wanted) != len(found):
            return f"{len(wanted)} rows are wanted, not {len(found)}"
        if same_rows(wanted, found):
            return "the rows are right, their order is not"
        return "the number of rows and columns is right, the values are not"


def _read_rows(rows: object) -> Rows | None:
    """Return the rows of an answer: a list of rows, or the JSON text of one; None for anything else."""
    if isinstance(rows, str):
        try:
            rows = json.loads(rows)
        except (ValueError, RecursionError):
            return None
    if not isinstance(rows, list):
        return None
    plain = [row if isinstance(row, list) else [row] for row in rows]
    is_plain = all(c is None or isinstance(c, (str, int, float)) for row in plain for c in row)
    return plain if is_plain else None
