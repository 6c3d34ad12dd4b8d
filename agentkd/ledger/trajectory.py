"""Trajectories: begun, recorded step by step while they happen, finished once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from agentkd.errors import NotFoundError
from agentkd.ledger import tables as t
from agentkd.ledger.body import dump, load
from agentkd.ledger.database import Database, chunks, upsert
from agentkd.ledger.recall import settle
from agentkd.ledger.redact import Redact, redact_json
from agentkd.schema import Outcome, Step, Trajectory, Value, is_lived

__all__ = ["RunSummary", "Trajectories"]

Found = list[Trajectory]  # inside the class, `list` is the method
_KEPT = (("id",), ("run_id",), ("scope",), ("task", "id"), ("task", "suite"), ("task", "split"))


class RunSummary(Value):
    """One run at a glance."""

    run_id: str
    """Identifier of the run."""
    suite: str
    """Suite of its tasks (the first by name where there are several)."""
    n: int
    """Trajectories begun."""
    n_finished: int
    """Trajectories finished."""
    n_success: int
    """Finished trajectories that a grader judged successful."""
    n_failed: int
    """Finished trajectories that a grader judged failed."""
    started_at: datetime
    """When its first trajectory began (UTC)."""
    last_at: datetime
    """When its last trajectory began (UTC)."""


class Trajectories:
    """What agents did. A trajectory is a fact once it is finished; until then it can be begun anew."""

    def __init__(self, database: Database, redact: Redact) -> None:
        self._database = database
        self._redact = redact

    def begin(self, trajectory: Trajectory) -> bool:
        """Open a trajectory and drop what a killed attempt left of it; False when it is already finished."""
        with self._database.write(lasting=False) as connection:
            if _is_finished(connection, trajectory.id):
                return False
            _forget_partial(connection, trajectory.id)
            body, is_redacted = self._clean(trajectory)
            upsert(connection, t.trajectories, _row(trajectory, body, is_redacted, is_finished=False))
        return True

    def add_step(self, trajectory_id: str, step: Step) -> None:
        """Write a step of a running trajectory, or replace it where the loop ran it again."""
        with self._database.write(lasting=False) as connection:
            row = connection.execute(
                sa.select(t.trajectories.c.is_finished, t.trajectories.c.is_redacted).where(
                    t.trajectories.c.id == trajectory_id
                )
            ).one_or_none()
            if row is None:
                raise _unknown(trajectory_id)
            if row.is_finished:
                return
            data, changed = redact_json(step.model_dump(mode="json"), self._redact)
            if changed and not row.is_redacted:
                where = t.trajectories.c.id == trajectory_id
                connection.execute(t.trajectories.update().where(where).values(is_redacted=True))
            upsert(connection, t.steps, _step_row(trajectory_id, data, changed or row.is_redacted))

    def finish(self, trajectory: Trajectory) -> bool:
        """Store the whole trajectory and settle its recalls; False when it was finished before."""
        with self._database.write() as connection:
            if _is_finished(connection, trajectory.id):
                return False
            body, is_redacted = self._clean(trajectory)
            steps, changed = redact_json([s.model_dump(mode="json") for s in trajectory.steps], self._redact)
            is_redacted = is_redacted or changed
            upsert(connection, t.trajectories, _row(trajectory, body, is_redacted, is_finished=True))
            kept = [step["index"] for step in steps]
            connection.execute(
                t.steps.delete().where(
                    t.steps.c.trajectory_id == trajectory.id, t.steps.c.position.not_in(kept)
                )
            )
            upsert(connection, t.steps, [_step_row(trajectory.id, step, is_redacted) for step in steps])
            if trajectory.outcome is not None:
                settle(connection, trajectory.id, trajectory.success)
        return True

    def grade(self, trajectory_id: str, outcome: Outcome) -> None:
        """Give a finished trajectory its outcome, or another one, and settle its recalls."""
        with self._database.write() as connection:
            found = _fetch(connection, t.trajectories.c.id == trajectory_id)
            if not found:
                raise _unknown(trajectory_id)
            graded = found[0].model_copy(update={"outcome": outcome})
            body, _ = self._clean(graded)
            where = t.trajectories.c.id == trajectory_id
            connection.execute(
                t.trajectories.update().where(where).values(body=body, success=outcome.success)
            )
            settle(connection, trajectory_id, outcome.success)

    def get(self, trajectory_id: str) -> Trajectory:
        """Return a trajectory, a running one with the steps so far; raises NotFoundError."""
        with self._database.read() as connection:
            found = _fetch(connection, t.trajectories.c.id == trajectory_id)
        if not found:
            raise _unknown(trajectory_id)
        return found[0]

    def get_many(self, ids: Iterable[str]) -> Found:
        """Return the trajectories with these ids, oldest first; unknown ids are left out."""
        with self._database.read() as connection:
            found = [x for batch in chunks(ids) for x in _fetch(connection, t.trajectories.c.id.in_(batch))]
        return sorted(found, key=lambda x: (x.created_at, x.id))

    def list(
        self,
        run_id: str | None = None,
        suite: str | None = None,
        split: str | None = None,
        success: bool | None = None,
        limit: int | None = None,
        *,
        task_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        latest: bool = False,
    ) -> Found:
        """Return finished trajectories, oldest first.

        `success=False` means graded and failed. `since` is inclusive, `until` exclusive. `limit` takes
        the oldest ones, with `latest` the newest ones.
        """
        c = t.trajectories.c
        wanted: dict[sa.Column[Any], Any] = {
            c.run_id: run_id, c.suite: suite, c.split: split, c.success: success, c.task_id: task_id,
        }  # fmt: skip
        where = [
            c.is_finished.is_(True),
            *(col == value for col, value in wanted.items() if value is not None),
        ]
        if since is not None:
            where.append(c.created_at >= since)
        if until is not None:
            where.append(c.created_at < until)
        with self._database.read() as connection:
            return _fetch(connection, *where, limit=limit, latest=latest)

    def of_run(self, run_id: str) -> Found:
        """Return what a run finished here, oldest first; what a file says was of it is no part of it."""
        return [trajectory for trajectory in self.list(run_id=run_id) if not trajectory.imported_from]

    def keys(self, suite: str | None = None, split: str | None = None) -> Sequence[tuple[str, str, str, str]]:
        """Return (suite, task id, trajectory id, split) of finished trajectories, sorted; no body is read."""
        c = t.trajectories.c
        columns = (c.suite, c.task_id, c.id, c.split)
        query = sa.select(*columns).where(c.is_finished.is_(True))
        for column, value in ((c.suite, suite), (c.split, split)):
            query = query if value is None else query.where(column == value)
        with self._database.read() as connection:
            return sorted((row[0], row[1], row[2], row[3]) for row in connection.execute(query))

    def n_same(self, id_: str, steps: Sequence[Step]) -> int | None:
        """Count how many of the first `steps` a finished trajectory holds, as they would be stored.

        None where there is no finished one of that id. Compared is what was said, called and answered.
        """
        with self._database.read() as connection:
            if not _is_finished(connection, id_):
                return None
            (stored,) = _fetch(connection, t.trajectories.c.id == id_)
        cleaned = (redact_json(step.model_dump(mode="json"), self._redact)[0] for step in steps)
        n = 0
        for ours, theirs in zip(cleaned, stored.steps, strict=False):
            if _said(ours) != _said(theirs.model_dump(mode="json")):
                break
            n += 1
        return n

    def unfinished(self, run_id: str | None = None) -> Found:
        """Return the trajectories that were begun and not finished, with their steps so far."""
        c = t.trajectories.c
        where = [c.is_finished.is_(False), *([c.run_id == run_id] if run_id is not None else [])]
        with self._database.read() as connection:
            return _fetch(connection, *where)

    def n_since(self, since: Mapping[str, datetime], suite: str = "", split: str = "") -> int:
        """Count the finished trajectories of a suite's split, or all that are lived, begun after a time.

        `since` has the time of each suite; under the empty name, that of all. Without one all count.
        """
        c = t.trajectories.c
        where: list[sa.ColumnElement[bool]] = [c.is_finished]
        for name, at in since.items():
            where.append(sa.or_(c.created_at > at, c.suite != name) if name else c.created_at > at)
        where += [c.suite == suite, c.split == split] if suite else []
        query = sa.select(c.split, sa.func.count()).where(*where).group_by(c.split)
        with self._database.read() as connection:
            return sum(n for name, n in connection.execute(query) if suite or is_lived(name))

    def done_tasks(self, run_id: str) -> set[tuple[str, int]]:
        """Return (task id, attempt) of every finished trajectory of a run: numbers that are taken."""
        c = t.trajectories.c
        query = sa.select(c.task_id, c.attempt).where(c.run_id == run_id, c.is_finished.is_(True))
        with self._database.read() as connection:
            return {(row.task_id, row.attempt) for row in connection.execute(query)}

    def runs(self) -> Sequence[RunSummary]:
        """Return a summary per run, oldest first."""
        c = t.trajectories.c
        query = (
            sa.select(
                c.run_id,
                sa.func.min(c.suite).label("suite"),
                sa.func.count().label("n"),
                _share(c.is_finished).label("n_finished"),
                _share(sa.and_(c.is_finished, c.success.is_(True))).label("n_success"),
                _share(sa.and_(c.is_finished, c.success.is_(False))).label("n_failed"),
                sa.func.min(c.created_at).label("started_at"),
                sa.func.max(c.created_at).label("last_at"),
            )
            .group_by(c.run_id)
            .order_by(sa.func.min(c.created_at), c.run_id)
        )
        with self._database.read() as connection:
            return [RunSummary.model_validate(dict(row)) for row in connection.execute(query).mappings()]

    def _clean(self, trajectory: Trajectory) -> tuple[str, bool]:
        """Return the body without its steps and without secrets, and whether there were any."""
        data = trajectory.model_dump(mode="json", exclude={"steps"})
        clean, changed = redact_json(data, self._redact, keep=_KEPT)
        return dump(clean), changed


def _share(condition: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.func.sum(sa.case((condition, 1), else_=0))


def _row(trajectory: Trajectory, body: str, is_redacted: bool, *, is_finished: bool) -> dict[str, Any]:
    return {
        "id": trajectory.id,
        "run_id": trajectory.run_id,
        "suite": trajectory.task.suite,
        "split": trajectory.task.split,
        "task_id": trajectory.task.id,
        "attempt": trajectory.attempt,
        "model": trajectory.model,
        "is_finished": is_finished,
        "is_redacted": is_redacted,
        "success": None if trajectory.outcome is None else trajectory.outcome.success,
        "created_at": trajectory.created_at,
        "body": body,
    }


def _step_row(trajectory_id: str, step: dict[str, Any], is_redacted: bool) -> dict[str, Any]:
    """Make a row; token ids would spell a redacted secret out, so they go with it."""
    if is_redacted:
        step = {**step, "tokens": None}
    return {"trajectory_id": trajectory_id, "position": step["index"], "body": dump(step)}


def _said(step: Mapping[str, Any]) -> tuple[Any, ...]:
    results = [(result["content"], result["error"]) for result in step["results"]]
    return step["reply"]["content"], step["reply"]["tool_calls"], step["accepted_calls"], results


def _is_finished(connection: sa.Connection, trajectory_id: str) -> bool:
    query = sa.select(t.trajectories.c.is_finished).where(t.trajectories.c.id == trajectory_id)
    return bool(connection.execute(query).scalar_one_or_none())


def _forget_partial(connection: sa.Connection, trajectory_id: str) -> None:
    settle(connection, trajectory_id, None)
    for table in (t.steps, t.recalls, t.trials):
        connection.execute(table.delete().where(table.c.trajectory_id == trajectory_id))


def _fetch(
    connection: sa.Connection, *where: sa.ColumnElement[bool], limit: int | None = None, latest: bool = False
) -> Found:
    c = t.trajectories.c
    order = (c.created_at.desc(), c.id.desc()) if latest else (c.created_at, c.id)
    rows = connection.execute(sa.select(c.id, c.body).where(*where).order_by(*order).limit(limit)).all()
    steps: dict[str, list[Any]] = {row.id: [] for row in rows}
    for batch in chunks(steps):
        query = sa.select(t.steps).where(t.steps.c.trajectory_id.in_(batch)).order_by(t.steps.c.position)
        for step in connection.execute(query):
            steps[step.trajectory_id].append(load(Step, step.body))
    found = [load(Trajectory, row.body, steps=tuple(steps[row.id])) for row in rows]
    return found[::-1] if latest else found


def _unknown(trajectory_id: str) -> NotFoundError:
    return NotFoundError(f"there is no trajectory `{trajectory_id}`", hint="`agentkd runs list` shows them")
