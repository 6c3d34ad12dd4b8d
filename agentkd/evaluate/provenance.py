"""Provenance: where each sentence of a student comes from: its teacher, itself before, or neither."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING

from pydantic import Field

from agentkd.errors import DataError
from agentkd.evaluate.said import Said, first_turns
from agentkd.protocols import Comparison, Kit
from agentkd.schema import Diagnosis, Value

if TYPE_CHECKING:
    from agentkd.hf import ReplyScorer

__all__ = ["Provenance", "ProvenanceSettings", "origin_of", "sentences"]

ORIGINS = ("teacher", "before", "both", "new")
_TEACHER = "base + memory"


class ProvenanceSettings(Value):
    """Options of the evaluator `provenance`."""

    n: int = Field(default=20, ge=1)
    """Most tasks whose replies are traced."""
    margin: float = Field(default=0.5, gt=0.0)
    """Nats a token by which one source must find a sentence likelier than another."""
    shown: int = Field(default=20, ge=0)
    """Sentences that the table shows: those that are most the student's own invention."""
    max_new: float = Field(default=1.0, ge=0.0, le=1.0)
    """Largest share of sentences that neither teacher nor old student would say; 1 flags none."""


def sentences(text: str) -> list[tuple[int, int]]:
    """Return (start, end) of every sentence; of a call, of its name and every argument."""
    if text.lstrip().startswith("{"):
        ends = [match.end() for match in re.finditer(r',\s(?=")|\{(?=")', text)]
    else:
        ends = [match.end() for match in re.finditer(r"[.!?]+\s+|\n+", text)]
    cuts = sorted({0, *ends, len(text)})
    return [(start, end) for start, end in pairwise(cuts) if re.search(r"\w", text[start:end])]


def origin_of(teacher: float, before: float, after: float, margin: float) -> str:
    """Return where a sentence comes from, by its mean log-probability under each (nats a token).

    `new`: the student says what neither of the others would; `both`: either would have said it.

    Source: the classes of provenance tracing of distilled models: by the teacher's, the old student's and the
    new student's probability of each sentence.
    """
    if after - max(teacher, before) > margin:
        return "new"
    if abs(teacher - before) <= margin:
        return "both"
    return "teacher" if teacher > before else "before"


class Provenance:
    """Each sentence of the candidate by its probability under teacher, old student and new student.

    The teacher is the base with its memories in the prompt, the old student what serves without them.
    """

    name = "provenance"

    def __init__(self, settings: ProvenanceSettings | None = None) -> None:
        self._settings = settings or ProvenanceSettings()

    def evaluate(self, comparison: Comparison, kit: Kit) -> Diagnosis:
        """Trace what the candidate said on held-out tasks."""
        from agentkd.hf import ReplyScorer

        said = first_turns(comparison.trajectories("student"))
        taught = first_turns(comparison.trajectories(_TEACHER))
        tasks = sorted(said.keys() & taught.keys())[: self._settings.n]
        if not tasks:
            note = f"There are no replies of `student` and `{_TEACHER}` to trace."
            return Diagnosis(evaluator=self.name, notes=(note,))
        scorer = ReplyScorer(comparison.base, {"before": comparison.before, "after": comparison.after})
        traced = [row for task in tasks for row in self._trace(scorer, task, said[task], taught)]
        counts = Counter(origin for _, _, _, origin in traced)
        shares = {origin: counts[origin] / max(len(traced), 1) for origin in ORIGINS}
        inventive = sorted(traced, key=lambda row: max(row[2][:2]) - row[2][2])[: self._settings.shown]
        return Diagnosis(
            evaluator=self.name,
            metrics={**shares, "n": float(len(traced))},
            flags=("invented",) if shares["new"] > self._settings.max_new else (),
            notes=(
                f"Of {len(traced)} sentences, {shares['teacher']:.0%} come from the teacher, "
                f"{shares['before']:.0%} from what served before, {shares['both']:.0%} from either and "
                f"{shares['new']:.0%} from neither.",
            ),
            columns=("task", "sentence", "teacher", "before", "after", "origin"),
            rows=tuple(
                (task, text, *(f"{value:.2f}" for value in values), origin)
                for task, text, values, origin in inventive
            ),
        )

    def _trace(
        self, scorer: ReplyScorer, task: str, said: Said, taught: Mapping[str, Said]
    ) -> list[tuple[str, str, tuple[float, float, float], str]]:
        """Return (task, sentence, its mean log-probability under each of the three, origin)."""
        asked = ((taught[task].prompt, ""), (said.prompt, "before"), (said.prompt, "after"))
        try:
            scored = [scorer.score(prompt, said.reply, by) for prompt, by in asked]
        except DataError:
            return []  # a reply that the template cannot take
        found = []
        for start, end in sentences(scored[0].text):
            inside = [n for n, place in enumerate(scored[0].ends) if start < place <= end]
            if inside:
                teacher, before, after = (fmean(one.log_probs[n] for n in inside) for one in scored)
                origin = origin_of(teacher, before, after, self._settings.margin)
                found.append((task, scored[0].text[start:end].strip(), (teacher, before, after), origin))
        return found
