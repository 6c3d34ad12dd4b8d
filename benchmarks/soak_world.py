"""What the soaks of whole cycles share: a world, an undisturbed cycle, and what must be as after it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import soak_desk
from measure import WORK

from agentkd import Workspace, hf
from agentkd.ledger import Ledger

LIMIT_SECONDS = 600.0
FACTS = (
    "datasets",
    "checkpoints",
    "serving",
    "counts",
    "statuses",
    "phases",
    "cycles",
    "files",
    "left_over",
    "faults",
)
"""Names of what `facts` returns."""


class World:
    """A folder with a student, a workspace that was left in peace, and its facts."""

    def __init__(self, name: str, **options: Any) -> None:
        """Make it anew: one whole cycle in a child, whose imports this process then shares."""
        self.folder = WORK / name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.settings = forked.ask(lambda: soak_desk.settings(self.folder, **options), self.folder / "log")
        calm = self.workspace("calm")
        self.cpu_cold = forked.warm(cycle(calm), self.folder / "calm.log")
        self.expected = self.facts(calm)
        self.cpu_seconds, self.seconds = self._measured()

    def workspace(self, name: str) -> Path:
        """Make an empty workspace."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        return soak_desk.make_workspace(folder, self.settings)

    def log(self, folder: Path) -> Path:
        """Return where the processes of a workspace write."""
        return self.folder / f"{folder.name}.log"

    def finish(self, folder: Path) -> forked.Forked:
        """Run a cycle to its end; raises SystemExit where it does not end well."""
        process = forked.start(cycle(folder), self.log(folder))
        process.wait(LIMIT_SECONDS)
        if process.kill():
            raise SystemExit(f"a cycle in `{folder}` ended with {process.code}:\n{process.said()}")
        return process

    def facts(self, folder: Path) -> dict[str, Any]:
        """Return what has to be the same however often a cycle was disturbed."""
        found: dict[str, Any] = forked.ask(lambda: facts(folder), self.folder / "facts.log")
        return found

    def differs(self, folder: Path) -> list[str]:
        """Return the facts that are not as in the undisturbed one; a workspace without any is removed."""
        found = self.facts(folder)
        different = [name for name in FACTS if found[name] != self.expected[name]]
        for name in different:
            print(f"  {folder.name} {name}: {found[name]} instead of {self.expected[name]}")
        if not different:
            shutil.rmtree(folder)
        return different

    def _measured(self) -> tuple[float, float]:
        """Return CPU and wall seconds of one more undisturbed cycle, which must end like the first."""
        folder, begun = self.workspace("again"), os.times()
        self.finish(folder)
        ended = os.times()
        if different := self.differs(folder):
            raise SystemExit(f"two undisturbed cycles differ in {', '.join(different)}")
        cpu = ended.children_user + ended.children_system - begun.children_user - begun.children_system
        return cpu, ended.elapsed - begun.elapsed


def cycle(folder: Path) -> Callable[[], int]:
    """Return the work of one cycle in a workspace."""
    return forked.command("-q", "-C", str(folder), "cycle")


def facts(folder: Path) -> dict[str, Any]:
    """Look at a workspace whose cycle has ended; raises what a damaged ledger raises."""
    with Workspace(folder) as workspace:
        ledger, serving = workspace.ledger, workspace.parts.serving()
        ledger.check()
        name = serving.name if serving else "base"
        index = workspace.memory.check()
        faults = [] if index.agrees and not index.n_unfinished else [f"index: {index}"]
        for checkpoint in workspace.checkpoints():
            hf.check_files(workspace.parts.checkpoint_folder(checkpoint.name))
        return {
            "datasets": [card.id for card in workspace.datasets()],
            "checkpoints": {
                checkpoint.name: [checkpoint.status, checkpoint.files["adapter_model.safetensors"]]
                for checkpoint in workspace.checkpoints()
            },
            "serving": [[event.action, event.name] for event in ledger.checkpoints.history()],
            "counts": ledger.counts(),
            "statuses": dict(sorted(ledger.memories.status_for(name).items())),
            "cycles": [[report.number, report.verdict is not None] for report in ledger.cycles.list("done")],
            "phases": [
                [report.id, phase.name, phase.status]
                for report in ledger.cycles.list()
                for phase in ledger.cycles.phases(report.id)
            ],
            "files": _files(folder),
            "left_over": sorted(
                str(path.relative_to(folder))
                for path in folder.glob("**/*")
                if ".partial" in path.name or path.suffix == ".tmp" or path.match("checkpoints/*.lock")
            ),
            "faults": faults,
        }


def _files(folder: Path) -> list[str]:
    """Return the files with names that are the same in every workspace."""
    parts = ("datasets", "checkpoints", "cycles", "skills")
    return sorted(str(path.relative_to(folder)) for part in parts for path in folder.glob(f"{part}/**/*"))


def phase_at_work(folder: Path) -> str:
    """Return the phase that a killed cycle was in: `start` before its first, an empty text after its last."""
    if not (folder / "ledger.db").is_file():
        return "start"
    with Ledger.open(folder / "ledger.db") as ledger:
        if ledger.cycles.list("done"):  # the kill came while the process was leaving
            return ""
        unfinished = ledger.cycles.unfinished()
        phases = ledger.cycles.phases(unfinished.id) if unfinished else ()
        return next((phase.name for phase in phases if phase.status == "running"), "between")
