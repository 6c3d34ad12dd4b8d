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
    Where the newest decisions are shown and not followed, none is. A refused candidate's weights say nothing.
    A decision lapses after `[place] lasts` measurements, and one on lessons that were in no weights is none:
    else what once was kept out of the rows could never be tried in weights again.
    """
    reports = parts.ledger.cycles.all_done(PHASE)
    if not reports or not reports[0].output.get("is_followed"):
        return {}
    base_id, places = parts.student_files.base_id, dict[str, Place]()
    told = [each.output for each in reports if each.output.get("is_followed")]
    told = [each for each in told if each.get("base_id") == base_id and each.get("is_promoted", True)]
    for output in told[: parts.settings.place.lasts]:
        for each in map(Placement.model_validate, output["placements"]):
            if each.is_measured and (each.is_fact or any(way.place == "weights" for way in each.options)):
                places = dict.fromkeys(each.memories, each.place) | places
    return places
