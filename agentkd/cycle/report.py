"""The report of a cycle: gathers what was measured and writes `report.json` and `report.html`."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentkd.cycle.html import render_html
from agentkd.cycle.journal import Plan
from agentkd.cycle.parts import Parts
from agentkd.cycle.placed import PHASE
from agentkd.cycle.transfer import transfer_matrix
from agentkd.errors import DataError, NotFoundError
from agentkd.files import write_whole
from agentkd.schema import CycleReport, Evaluation, PhaseReport, Placement, Verdict

__all__ = [
    "latest_number",
    "loss_curve",
    "make_report",
    "read_report",
    "report_folder",
    "write_report",
]

PACKAGES = (
    "agentkd", "chromadb", "langgraph", "litellm", "llguidance", "onnxruntime", "peft", "pluggy",
    "pydantic", "sqlalchemy", "torch", "transformers",
)  # fmt: skip


MAX_ROUNDS = 50
"""Runs whose corrections per task a report lists: the newest."""


def make_report(
    parts: Parts,
    plan: Plan,
    phases: Sequence[PhaseReport],
    evaluations: Sequence[Evaluation],
    verdict: Verdict | None,
    rejected: Sequence[Verdict] = (),
) -> CycleReport:
    """Assemble the report of a finished cycle."""
    serving = parts.serving()
    candidate = verdict.checkpoint if verdict else ""
    judged = (phase.output for phase in phases if phase.name == "evaluate")
    probes = next((o.get("earlier", ()) for o in judged if o.get("checkpoint") == candidate), ())
    return CycleReport(
        id=plan.cycle_id,
        number=plan.number,
        suite=plan.suite,
        seed=plan.seed,
        phases=tuple(phases),
        evaluations=tuple(evaluations),
        verdict=verdict,
        transfer=transfer_matrix(
            parts, candidate, plan.number, evaluations, [Evaluation.model_validate(probe) for probe in probes]
        ),
        rejected=tuple(rejected),
        checkpoint=candidate,
        serving=serving.name if serving else "base",
        corrections=tuple(parts.ledger.corrections.rounds(plan.suite or None, limit=MAX_ROUNDS)),
        placements=_placements(phases),
        counts={**parts.ledger.counts(), **_lineage_counts(parts, candidate)},
        plugins=dict(parts.host.versions),
        versions=_versions(),
        machine=_machine(),
        loss_curve=loss_curve(parts.root, candidate),
    )


def _placements(phases: Sequence[PhaseReport]) -> tuple[Placement, ...]:
    made = [phase.output.get("placements", ()) for phase in phases if phase.name == PHASE]
    return tuple(Placement.model_validate(each) for placements in made for each in placements)


def _lineage_counts(parts: Parts, candidate: str) -> dict[str, int]:
    if not candidate:
        return {}
    counts = parts.ledger.lineage.counts(candidate)
    return {f"lineage: {kind}": n for kind, n in counts.items()}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _machine() -> dict[str, str]:
    facts = {"system": platform.platform(terse=True), "cores": str(os.cpu_count())}
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        facts["memory"] = f"{pages * size / 2**30:.0f} GiB"
        cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        names = [line.partition(":")[2].strip() for line in cpu.splitlines() if line.startswith("model name")]
        facts["processor"] = names[0] if names else platform.processor()
    except (OSError, ValueError):
        facts["processor"] = platform.processor()
    return facts


def loss_curve(root: Path, checkpoint: str) -> tuple[tuple[int, float], ...]:
    """Return the (step, loss) pairs of a checkpoint's training; none where they are not there."""
    path = root / "checkpoints" / checkpoint / "metrics.jsonl"
    if not checkpoint or not path.is_file():
        return ()
    points: dict[int, float] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "step" in row and "loss" in row:
            points[int(row["step"])] = float(row["loss"])
    return tuple(sorted(points.items()))


def report_folder(root: Path, number: int) -> Path:
    """Return the folder of a cycle's report."""
    return root / "cycles" / f"{number:04d}"


def _judgement(parts: Parts, report: CycleReport) -> dict[str, Any]:
    """Return the verdict with everything that it rests on: an artefact that can be read by itself."""
    verdict = report.verdict
    numbers = verdict.numbers if verdict else {}
    return {
        "cycle": report.number,
        "verdict": verdict.model_dump(mode="json") if verdict else None,
        "rejected": [each.model_dump(mode="json") for each in report.rejected],
        "power": _powers(int(numbers.get("n", 0)), numbers.get("alpha", 0.0)),
        "settings": parts.settings.gate.model_dump(mode="json"),
        "evaluations": [e.model_dump(mode="json") for e in report.evaluations],
        "transfer": [row.model_dump(mode="json") for row in report.transfer[-1:]],
    }


def _powers(n: int, alpha: float) -> dict[str, float]:
    """Return the chance to see gains of 5 to 30 points on so many tasks where 5 % of them are lost."""
    from agentkd.evaluate import power_of

    gains = (0.05, 0.1, 0.2, 0.3) if n and alpha else ()
    return {f"gain {gain:g}": power_of(n, gain + 0.05, 0.05, alpha) for gain in gains}


def latest_number(root: Path) -> int:
    """Return the number of the newest report; raises NotFoundError where there is none."""
    numbers = [int(p.parent.name) for p in (root / "cycles").glob("*/report.json") if p.parent.name.isdigit()]
    if not numbers:
        raise NotFoundError(f"`{root}` has no cycle report yet", hint="run `agentkd cycle`")
    return max(numbers)


def write_report(parts: Parts, report: CycleReport) -> Path:
    """Write `report.json` and `report.html` aside and rename them into place; returns the HTML's path."""
    folder = report_folder(parts.root, report.number)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "report.json", report.model_dump_json(indent=1))
    if report.verdict is not None:
        write_whole(folder / "verdict.json", json.dumps(_judgement(parts, report), indent=1) + "\n")
    html = folder / "report.html"
    write_whole(html, render_html(report))
    return html


def read_report(root: Path, number: int | None = None) -> CycleReport:
    """Read a report; the newest where no number is given."""
    number = latest_number(root) if number is None else number
    path = report_folder(root, number) / "report.json"
    if not path.is_file():
        raise NotFoundError(
            f"cycle {number} has no report in `{path.parent}`", hint="`agentkd report` shows the newest"
        )
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        return CycleReport.model_validate(data)
    except ValueError as error:
        raise DataError(f"`{path}` is not a report: {error}", path=str(path)) from error
