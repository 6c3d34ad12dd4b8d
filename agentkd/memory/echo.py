"""Recalled text is never a source: a lesson that only repeats what its own run was shown is no evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from agentkd.memory.lesson import lesson_of, normalise
from agentkd.memory.wording import says_the_same, wording_of
from agentkd.protocols import Embedder
from agentkd.schema import Evidence, Memory, Span
from agentkd.trust import VOUCHING

if TYPE_CHECKING:
    from agentkd.ledger import Ledger

__all__ = ["Echoes", "refused_source"]

_NO_SOURCE = ("memory", "system")
_SHORTEST = 16  # characters of a quote that can be recognised


class Echoes:
    """What stood in the prompts of the runs that some candidates rest on."""

    def __init__(
        self, candidates: Sequence[Memory], ledger: Ledger, embedder: Embedder, merge_above: float
    ) -> None:
        runs = dict.fromkeys(id_ for memory in candidates for id_ in memory.evidence.trajectories)
        ids = ledger.memories.shown_in(runs) if runs else {}
        known = {m.id: m for m in ledger.memories.get_many({id_ for group in ids.values() for id_ in group})}
        given = {id_ for memory in candidates for id_ in memory.evidence.corrections}
        sources = ledger.corrections.sources(given) if given else {}
        self._said = {id_ for id_, source in sources.items() if source in VOUCHING}
        self._shown = {run: [known[id_] for id_ in sorted(group)] for run, group in ids.items()}
        self._merge_above = merge_above
        self._embedder = embedder

    def shown(self, memory: Memory) -> list[Memory]:
        """Return what the runs behind a memory were shown."""
        runs = memory.evidence.trajectories
        found = {m.id: m for run in runs for m in self._shown.get(run, ())}
        return list(found.values())

    def without(self, memory: Memory) -> tuple[Memory | None, str]:
        """Return a candidate without the runs that were shown its lesson, and what it echoes.

        None where nothing else is left. What a person or a grader corrected is no echo.
        """
        if self._said.intersection(memory.evidence.corrections) or not self.shown(memory):
            return memory, ""
        by_run = {run: self._echoed(memory, run) for run in memory.evidence.trajectories}
        echoed = sorted({id_ for id_ in by_run.values() if id_})
        left = tuple(run for run, id_ in by_run.items() if not id_)
        if not echoed:
            return memory, ""
        if not left:
            return None, echoed[0]
        return memory.model_copy(update={"evidence": _kept(memory.evidence, left), "support": len(left)}), ""

    def _echoed(self, memory: Memory, run: str) -> str:
        """Return the id of the memory that a run was shown and a candidate repeats; empty for none."""
        shown = self._shown.get(run, ())
        lesson = lesson_of(memory)
        for other in shown:
            if other.id == memory.id or lesson_of(other) == lesson:
                return other.id
        if memory.calls or memory.kind == "case":
            return ""  # close words with other calls are another exemplar
        said = wording_of(memory.content)
        alike = [
            other for other in shown if not other.calls and says_the_same(said, wording_of(other.content))
        ]
        if not alike:
            return ""
        vectors = self._embedder.embed([memory.content, *(other.content for other in alike)])
        scores = vectors[1:] @ vectors[0]
        best = int(scores.argmax())
        return alike[best].id if float(scores[best]) > self._merge_above else ""


def refused_source(memory: Memory, shown: Sequence[Memory]) -> str:
    """Return why the words that a candidate was read from are no source; empty where one of them is."""
    spans = memory.evidence.spans
    origins: Mapping[Span, str] = {span: _origin(span, shown) for span in spans}
    if spans and all(origin in _NO_SOURCE for origin in origins.values()):
        return f"it rests on {' and '.join(sorted(set(origins.values())))} text, which is never a source"
    return ""


def _origin(span: Span, shown: Sequence[Memory]) -> str:
    """Return who said a span; words of the model that stand in a recalled memory are that memory's."""
    quote = normalise(span.quote)
    if span.origin != "model" or len(quote) < _SHORTEST:
        return span.origin
    texts = (normalise(text) for memory in shown for text in (memory.content, memory.when_to_use))
    return "memory" if any(quote in text for text in texts) else "model"


def _kept(evidence: Evidence, runs: Sequence[str]) -> Evidence:
    return evidence.model_copy(
        update={
            "trajectories": tuple(runs),
            "steps": tuple(step for step in evidence.steps if step.rpartition(":")[0] in runs),
            "spans": tuple(span for span in evidence.spans if span.trajectory in runs),
        }
    )
