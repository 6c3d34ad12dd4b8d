"""What earlier cycles decided on where memories belong: compile and retire follow it."""

from __future__ import annotations

from agentkd.cycle.parts import Parts
from agentkd.schema import Place, Placement

__all__ = ["PHASE", "measured_places", "placements"]

PHASE = "place"
"""Name of the phase that decides."""


def placements(parts: Parts) -> list[Placement]:
    """Return the newest decisions, where they are to be followed and were made for the present base model."""
    report = parts.ledger.cycles.newest_phase(PHASE)
    if report is None or report.output.get("base_id") != parts.student_files.base_id:
        return []
    if not report.output.get("is_followed"):
        return []
    return [Placement.model_validate(each) for each in report.output["placements"]]


def measured_places(parts: Parts) -> dict[str, Place]:
    """Return where measured memories belong, by id."""
    decided = [each for each in placements(parts) if each.is_measured]
    return {id_: each.place for each in decided for id_ in each.memories}
