"""What a workspace has learnt: reports, datasets and checkpoints, and which student serves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentkd import hookspecs
from agentkd.errors import ConfigError
from agentkd.schema import Checkpoint, CycleReport, DatasetCard, Route, Trajectory
from agentkd.workspace.opening import Opening

if TYPE_CHECKING:
    from agentkd.ledger.lineage import LineageGraph

__all__ = ["Serving"]


class Serving(Opening):
    """What a workspace shows of what it learnt, and what it lets serve."""

    def report(self, number: int | None = None) -> CycleReport:
        """Return the report of a cycle, the newest by default."""
        from agentkd.cycle.report import read_report

        return read_report(self.root, number)

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

    def promote(self, name: str, *, force: bool = False) -> str:
        """Let a checkpoint serve; one that the gate refused needs `force`. Returns what served before.

        Raises CheckpointError where its files are damaged or not safe, whatever `force` says.
        """
        from agentkd.hf import check_files

        checkpoint = self.parts.checkpoint(name)
        check_files(self.parts.checkpoint_folder(name))
        if checkpoint.status in ("rejected", "tainted") and not force:
            raise ConfigError(
                f"checkpoint `{name}` is {checkpoint.status}",
                hint="pass `--force` to let it serve all the same",
            )
        serving = self.ledger.checkpoints.serving()
        previous = serving.name if serving else "base"
        if previous != name:
            self.ledger.checkpoints.promote(name, force=force)
            self.hooks.ask(hookspecs.after_promote, checkpoint=name, previous=previous)
        return previous

    def rollback(self) -> tuple[str, str]:
        """Let serve again what served before; returns (from, to)."""
        old, new = self.ledger.checkpoints.rollback()
        self.hooks.ask(hookspecs.after_promote, checkpoint=new, previous=old)
        return old, new

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
        return {"down": self.ledger.lineage.down(identifier), "up": self.ledger.lineage.up(identifier)}
