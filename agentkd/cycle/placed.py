"""What earlier cycles decided on where memories belong: compile and retire follow it."""

from __future__ import annotations

from agentkd.cycle.parts import Parts
from agentkd.schema import Place, Placement

__all__ = ["PHASE", "measured_places"]

PHASE = "place"
"""Name of the phase that decides."""


def measured_places(parts: Parts) -> dict[str, Place]:
    """Return where measured memories belong, by id: each as it was last measured with the present base model.

    A cycle measures the few clusters that its tasks recalled most; the others stay where they were put.
    Where the newest decisions are shown and not followed, none is.
    """
    reports = parts.ledger.cycles.all_done(PHASE)
    if not reports or not reports[0].output.get("is_followed"):
        return {}
    base_id, places = parts.student_files.base_id, dict[str, Place]()
    for report in reports:
        if not report.output.get("is_followed") or report.output.get("base_id") != base_id:
            continue
        for each in map(Placement.model_validate, report.output["placements"]):
            if each.is_measured:
                places = dict.fromkeys(each.memories, each.place) | places
    return places
