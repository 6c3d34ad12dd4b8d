"""What a workspace has learnt: reports, datasets and checkpoints, and which student serves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentkd import hookspecs
from agentkd.errors import ConfigError, DataError, NotFoundError
from agentkd.schema import Checkpoint, CycleReport, DatasetCard, Route, Scope, Trajectory, Verdict
from agentkd.workspace.opening import Opening

if TYPE_CHECKING:
    from agentkd.cycle.recompute import Recomputation
    from agentkd.cycle.revoke import Revocation
    from agentkd.ledger.lineage import LineageGraph

__all__ = ["Serving"]


class Serving(Opening):
    """What a workspace shows of what it learnt, and what it lets serve."""

    def report(self, number: int | None = None) -> CycleReport:
        """Return the report of a cycle, the newest by default."""
        from agentkd.cycle.report import read_report

        return read_report(self.root, number)

    def recompute(self, number: int | None = None) -> Recomputation:
        """Compute every figure of a cycle's report again from the ledger, and say which differ."""
        from agentkd.cycle.recompute import recompute

        return recompute(self.parts, number)

    def report_path(self, number: int | None = None) -> Path:
        """Return the path of `report.html`."""
        from agentkd.cycle.report import latest_number, report_folder

        return (
            report_folder(self.root, latest_number(self.root) if number is None else number) / "report.html"
        )

    def trajectories(self, **query: Any) -> list[Trajectory]:
        """Return trajectories, oldest first; keywords of `ledger.trajectories.list`."""
        return self.ledger.trajectories.list(**query)

    def datasets(self) -> list[DatasetCard]:
        """Return the datasets, oldest first."""
        return self.ledger.datasets.list()

    def checkpoints(self) -> list[Checkpoint]:
        """Return the checkpoints, oldest first, with their present status."""
        return self.ledger.checkpoints.list()

    def gate(self, name: str | None = None) -> Verdict:
        """Judge a candidate (the newest by default) as a cycle would; promotes nothing.

        Raises NotFoundError where there is none, ConfigError without a suite to judge on.
        """
        from agentkd.cycle.verdict import ask_gate

        if name is None:
            known = self.ledger.checkpoints.list()
            waiting = [c.name for status in ("rejected", "candidate") for c in known if c.status == status]
            if not waiting:
                raise NotFoundError("there is no candidate to judge", hint="run `agentkd train`, or name one")
            name = waiting[-1]
        return ask_gate(self.parts, self.parts.checkpoint(name).name)

    def promote(self, name: str, *, force: bool = False) -> str:
        """Let a checkpoint serve if the gate agrees, or with `force`. Returns what served before.

        What has served before, or passed the gate of a cycle, is not judged again; anything else is judged
        now, against what serves now.

        Raises ConfigError where the gate refuses it, and whatever `force` says where it was trained on
        another base than the present one, CheckpointError where its files are damaged or not safe.
        """
        from agentkd.cycle.revoke import mask_checkpoint
        from agentkd.cycle.verdict import passed_before

        checkpoint = self.parts.checkpoint(name)
        self.parts.checkpoint_folder(name)
        self._refuse_stranger(checkpoint)
        if checkpoint.status in ("rejected", "tainted") and not force:
            raise ConfigError(
                f"checkpoint `{name}` is {checkpoint.status}",
                hint="pass `--force` to let it serve all the same",
            )
        if not (force or passed_before(self.parts, name)):
            verdict = self.gate(name)
            if not verdict.promote:
                raise ConfigError(
                    f"the gate refuses `{name}` ({', '.join(verdict.flags)})",
                    hint=f"`agentkd gate {name}` says why; `--force` lets it serve all the same",
                )
        previous = self._serving()
        if previous != name:
            self.ledger.checkpoints.promote(name, force=force)
            if checkpoint.status == "tainted":
                mask_checkpoint(self.parts, name)
            self.hooks.ask(hookspecs.after_promote, checkpoint=name, previous=previous)
        return previous

    def rollback(self) -> tuple[str, str]:
        """Let serve again what served before; returns (from, to).

        To the base where what served before was trained on another one. Raises NotFoundError while the base
        serves.
        """
        if self._serving() == "base":
            raise NotFoundError(
                "there is nothing to roll back: the base model serves", hint="promote a checkpoint first"
            )
        old, _ = self.ledger.checkpoints.rollback()
        new = self._serving()
        self.hooks.ask(hookspecs.after_promote, checkpoint=new, previous=old)
        return old, new

    def _serving(self) -> str:
        found = self.parts.serving()
        return found.name if found else "base"

    def _refuse_stranger(self, checkpoint: Checkpoint) -> None:
        if checkpoint.base_id != self.parts.student_files.base_id:
            raise ConfigError(
                f"`{checkpoint.name}` was trained on another base than `{self.settings.roles.student}`: it "
                "cannot serve there",
                hint="`agentkd checkpoints transfer` carries it over, or set `[roles] student` to its base",
            )

    def transfer(self, name: str, source: str) -> Checkpoint:
        """Carry a checkpoint over to another base as a candidate; see `agentkd.cycle.upgrade`."""
        from agentkd.cycle.upgrade import transfer

        return transfer(self.parts, name, source)

    def route(self, text: str) -> Route:
        """Return which student a routed agent would let act on a request, and why."""
        from agentkd.cycle.routing import AdapterRouter

        return AdapterRouter(self.parts).choose(text)

    def lineage(self, identifier: str) -> dict[str, LineageGraph]:
        """Return what an id was made from (`down`) and what was made from it (`up`)."""
        from agentkd.workspace.lineage import outside_links

        links, lineage = outside_links(self.parts), self.ledger.lineage
        return {"down": lineage.down(identifier, links), "up": lineage.up(identifier, links)}

    def revoke(
        self,
        *identifiers: str,
        reason: str,
        scope: Scope | None = None,
        instead: str = "",
    ) -> Revocation:
        """Take memories, trajectories or a user's data back for good, with all that was made from them.

        Args:
            identifiers: Ids of memories and trajectories.
            reason: Why; kept in the ledger.
            scope: All memories and trajectories whose scope has what this one sets, such as a user.
            instead: What is to be done in the place of the lessons: said to a tainted student where it acts.

        Raises NotFoundError for an unknown id, DataError for one of another kind.
        """
        from agentkd.cycle.revoke import revoke
        from agentkd.workspace.lineage import outside_links

        kinds = {id_: self.ledger.lineage.kind_of(id_) for id_ in identifiers}
        for id_, kind in kinds.items():
            if kind not in ("memory", "trajectory"):
                raise DataError(
                    f"`{id_}` is a {kind}: memories and trajectories can be revoked",
                    hint=f"`agentkd lineage {id_}` shows what it was made from",
                )
        links, made = outside_links(self.parts), set[tuple[str, str]]()
        named = {*identifiers}
        if scope is not None:
            found = self.ledger.revocations
            named |= {*found.memories_of(scope), *found.trajectories_of(scope)}
        for id_ in named:
            made |= {(node.kind, node.id) for node in self.ledger.lineage.up(id_, links).nodes}
        done = revoke(
            self.parts,
            memories=[id_ for id_, kind in kinds.items() if kind == "memory"],
            trajectories=[id_ for id_, kind in kinds.items() if kind == "trajectory"],
            scope=scope,
            reason=reason,
            instead=instead,
        )
        reached = Counter(kind for kind, id_ in made if id_ not in named)
        return done.model_copy(update={"reached": dict(sorted(reached.items()))})
