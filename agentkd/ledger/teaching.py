"""Teaching: student reports, and trajectories that a teacher wrote, with what it was shown."""

from __future__ import annotations

import sqlalchemy as sa

from agentkd.errors import DataError, NotFoundError
from agentkd.ledger import tables as t
from agentkd.ledger.body import dump, load
from agentkd.ledger.database import Database, insert_many, insert_once, known
from agentkd.ledger.redact import Redact, redact_json
from agentkd.ledger.trajectory import Trajectories
from agentkd.schema import StudentReport, Trajectory, origin_of

__all__ = ["Teaching"]

Found = list[StudentReport]


class Teaching:
    """What students could not do yet, and what teachers wrote about it."""

    def __init__(self, database: Database, trajectories: Trajectories, redact: Redact) -> None:
        self._database = database
        self._trajectories = trajectories
        self._redact = redact

    def add_report(self, report: StudentReport) -> bool:
        """Store a student report; False when its id is there."""
        body, _ = redact_json(report.model_dump(mode="json"), self._redact, keep={("id",)})
        row = {
            "id": report.id,
            "suite": report.suite,
            "checkpoint": report.checkpoint,
            "created_at": report.created_at,
            "body": dump(body),
        }
        with self._database.write() as connection:
            return insert_once(connection, t.student_reports, row)

    def report(self, report_id: str) -> StudentReport:
        """Return a student report; raises NotFoundError."""
        found = self._where(t.student_reports.c.id == report_id)
        if not found:
            raise NotFoundError(f"there is no student report `{report_id}`")
        return found[0]

    def reports(self, checkpoint: str | None = None) -> Found:
        """Return student reports, oldest first."""
        c = t.student_reports.c
        return self._where(*([c.checkpoint == checkpoint] if checkpoint is not None else []))

    def add_item(self, trajectory: Trajectory) -> bool:
        """Store a trajectory that a teacher wrote, with links to what it was shown; False when it is there.

        One transaction. Raises DataError where it is not synthetic, or names what the ledger does not hold.
        """
        origin = origin_of(trajectory)
        if origin is None:
            raise DataError(f"trajectory `{trajectory.id}` does not say which teacher wrote it")
        links = (
            (t.synthetic_seeds, t.trajectories, origin.seeds),
            (t.synthetic_memories, t.memories, origin.memories),
            (t.synthetic_reports, t.student_reports, (origin.report,) if origin.report else ()),
        )
        with self._database.write() as connection:
            for _, target, ids in links:
                missing = set(ids) - known(connection, target.c.id, ids)
                if missing:
                    raise DataError(
                        f"item `{trajectory.task.id}` rests on `{min(missing)}`, which is not among the "
                        f"{target.name} of the ledger"
                    )
            self._trajectories.begin(trajectory)
            is_new = self._trajectories.finish(trajectory)
            for table, _, ids in links:
                rows = [{"source": trajectory.id, "target": id_} for id_ in dict.fromkeys(ids)]
                insert_many(connection, table, rows)
        return is_new

    def _where(self, *conditions: sa.ColumnElement[bool]) -> Found:
        c = t.student_reports.c
        query = sa.select(c.body).where(*conditions).order_by(c.created_at, c.id)
        with self._database.read() as connection:
            return [load(StudentReport, body) for body in connection.execute(query).scalars()]
