"""Thresholds of similarity: set by hand, else calibrated for the embedder, else shipped, else generic.

Cosines of one embedder mean nothing for another one, so what is not set by hand belongs to a fingerprint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from agentkd.config import MemorySettings
from agentkd.schema import Value

if TYPE_CHECKING:
    from agentkd.ledger import Ledger

__all__ = ["SHIPPED", "Thresholds", "thresholds_for"]

ThresholdSource = Literal["calibrated", "shipped", "generic"]


class Thresholds(Value):
    """What counts as similar where one embedder is used."""

    min_score: float = 0.25
    """Recall abstains below this cosine similarity."""
    min_words: float = 0.5
    """Share of a state's words, weighted by rarity, that a memory found by words alone must hold."""
    related_above: float = 0.80
    """Situations more similar than this are about the same thing."""
    merge_above: float = 0.92
    """Situations more similar than this say the same."""
    source: ThresholdSource = "generic"
    """Where they come from, but for those set in `[memory]`."""

    def values(self) -> dict[str, float]:
        """Return the figures by name."""
        return {name: float(value) for name, value in self.model_dump(exclude={"source"}).items()}

    def overruled_by(self, settings: MemorySettings) -> Thresholds:
        """Return these thresholds, but for those that `[memory]` sets."""
        own = {name: getattr(settings, name) for name in ("min_score", "min_words", "merge_above")}
        told = {name: value for name, value in own.items() if value is not None}
        related = min(self.related_above, told.get("merge_above", self.merge_above))
        return self.model_copy(update={**told, "related_above": related})


SHIPPED: dict[str, Thresholds] = {
    # `minilm-onnx`, with the values that all published figures were measured with
    "emb-1bc6b02708418ff84bd1": Thresholds(source="shipped"),
    # `hashing`, measured on ReMe's five public libraries by `agentkd memory calibrate -n 500`; but 0.804 for
    # `merge_above`, at which short requests with other values were taken for copies
    "emb-5e05e483db09fe617ba6": Thresholds(min_score=0.10, related_above=0.335, source="shipped"),
}
"""Thresholds of the embedders that come along, with their default options, by fingerprint."""


def thresholds_for(fingerprint: str, settings: MemorySettings, ledger: Ledger) -> Thresholds:
    """Return the thresholds that hold for an embedder; those that `[memory]` sets have the last word."""
    found = SHIPPED.get(fingerprint, Thresholds())
    measured = ledger.calibrations.get(fingerprint)
    if measured is not None:
        names = ("min_score", "min_words", "related_above", "merge_above")
        found = Thresholds(source="calibrated", **{name: getattr(measured, name) for name in names})
    return found.overruled_by(settings)
