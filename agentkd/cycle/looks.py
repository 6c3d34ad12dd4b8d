"""How often candidates were judged on a suite since its last promotion: by cycles and by hand."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from agentkd.cycle.parts import Parts
from agentkd.schema import CycleReport, Evaluation, PhaseReport, Verdict, content_id

__all__ = ["PHASE", "decided_at", "look_number", "note_look"]

PHASE = "gate"
"""Name under which the journal keeps a verdict that no cycle asked for."""

Look = tuple[datetime, str, bool]
"""When, the candidate, and whether it was promoted by it."""


def look_number(parts: Parts, suite: str, candidate: str = "", before: int | None = None) -> int:
    """Return how many other candidates were judged on a suite since its last promotion, plus one.

    A candidate counts once: a cycle that had nothing new to do, or another margin, is no new look. `before`
    leaves out the cycle of this number, later ones, and what was judged by hand since.
    """
    reports = parts.ledger.cycles.list("done")
    looks = [*_by_cycles(reports, suite, before), *_by_hand(parts, suite)]
    until = next((decided_at(report) for report in reports if report.number == before), None)
    others: set[str] = set()
    for at, name, is_promoted in sorted(looks, key=lambda look: look[0]):
        if until is None or at <= until:
            others = set() if is_promoted else others | {name}
    return len(others - {candidate}) + 1


def note_look(parts: Parts, evaluation: Evaluation, verdict: Verdict) -> None:
    """Keep a verdict that no cycle asked for; the same one once, until something else comes to serve."""
    switches = len(parts.ledger.checkpoints.history())
    key = content_id("gte", evaluation.suite, evaluation.split, verdict, switches)
    word = "may serve" if verdict.promote else "may not serve"
    output = {
        "suite": evaluation.suite, "split": evaluation.split, "verdict": verdict.model_dump(mode="json")
    }  # fmt: skip
    parts.ledger.cycles.phase_done(
        PhaseReport(
            name=PHASE, key=key, status="done", summary=f"`{verdict.checkpoint}` {word}", output=output
        )
    )


def _by_cycles(reports: list[CycleReport], suite: str, before: int | None) -> Iterator[Look]:
    for report in reports:
        if before is not None and report.number >= before:
            continue
        verdict = report.verdict
        if report.suite == suite and verdict is not None and "unjudged" not in verdict.flags:
            yield decided_at(report), verdict.checkpoint, verdict.promote


def decided_at(report: CycleReport) -> datetime:
    """Return when a cycle decided on its candidates; where it had none, when it was reported."""
    return next((phase.started_at for phase in report.phases if phase.name == "promote"), report.created_at)


def _by_hand(parts: Parts, suite: str) -> Iterator[Look]:
    """Yield what was judged outside of cycles, and when what passed there came to serve."""
    promotions = [each for each in parts.ledger.checkpoints.history() if each.action == "promote"]
    for phase in parts.ledger.cycles.phases():
        if phase.name != PHASE or phase.output["suite"] != suite:
            continue
        verdict = Verdict.model_validate(phase.output["verdict"])
        name, at = verdict.checkpoint, phase.started_at
        yield at, name, False
        served = [each.happened_at for each in promotions if each.name == name and each.happened_at >= at]
        if verdict.promote and served:
            yield served[0], name, True
