"""The provenance gate: what a candidate's sources allow, read from the ledger and not from the candidate.

A candidate whose words come from trusted sources alone is admitted. One that rests on untrusted or tainted
words is quarantined until independent verified successes corroborate it or a person admits it; what a
person or a grader accepted counts at once, unless the lesson carries words of an untrusted tool.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from agentkd.config import TrustSettings
from agentkd.hf import call_text
from agentkd.schema import Correction, Evidence, Memory, Span, Trajectory
from agentkd.schema.memory import MemoryTrust
from agentkd.trust import VOUCHING, RunTrust, carried, is_vouched, trust_of_run

if TYPE_CHECKING:
    from agentkd.ledger import Ledger

__all__ = ["Gate", "Judged", "source_of"]


class Judged(NamedTuple):
    """A candidate as the gate lets it in."""

    memory: Memory
    """With the sources of its spans, its trust, its status, and its support capped per source."""
    reason: str = ""
    """Why it waits, or what let it in although its sources are untrusted; empty for a trusted one."""


class Gate:
    """Judges candidates; reads each run and correction that they rest on once."""

    def __init__(self, ledger: Ledger, settings: TrustSettings) -> None:
        self.settings = settings
        self._ledger = ledger
        self._runs: dict[str, tuple[Trajectory, RunTrust] | None] = {}
        self._corrections: dict[str, list[Correction]] = {}

    def judge(self, memories: Sequence[Memory], *, vouched: bool = False) -> list[Judged]:
        """Judge candidates; `vouched` says that a person answers for all of them."""
        self._read(id_ for memory in memories for id_ in memory.evidence.trajectories)
        return [self._judged(_unvouched(memory), vouched) for memory in memories]

    def successes(self, evidence: Evidence) -> list[str]:
        """Return runs that were verified here and are independent: other tasks, no untrusted source shared.

        Verified is a run that a grader of this workspace judged done, or one whose correction a person or a
        grader answers for. Nothing that the run says of itself counts.
        """
        self._read(evidence.trajectories)
        tasks: set[tuple[str, str]] = set()
        sources: set[str] = set()
        found = []
        for id_ in evidence.trajectories:
            known = self._runs[id_]
            if known is None:
                continue
            trajectory, trust = known
            task = (trajectory.task.suite, trajectory.task.group or trajectory.task.id)
            is_verified = trust.is_verified or is_vouched(self._said(evidence, id_))
            if is_verified and task not in tasks and trust.is_independent(sources):
                tasks.add(task)
                sources |= trust.sources
                found.append(id_)
        return found

    def uncounted(self, evidence: Evidence) -> frozenset[str]:
        """Return the runs that add nothing to the support: their source weighs as much as it may."""
        self._read(evidence.trajectories)
        weight: Counter[str] = Counter()
        beyond = set()
        for id_ in evidence.trajectories:
            known = self._runs[id_]
            is_free = known is None or is_vouched(self._said(evidence, id_))
            sources = frozenset[str]() if is_free or known is None else known[1].sources
            if any(weight[source] >= self.settings.max_support for source in sources):
                beyond.add(id_)
            else:
                weight.update(sources)
        return frozenset(beyond)

    def _judged(self, memory: Memory, vouched: bool) -> Judged:
        evidence = memory.evidence
        if vouched:
            return Judged(memory=memory.model_copy(update={"trust": "admitted"}), reason="by a person's word")
        if not evidence.trajectories and not evidence.corrections and not evidence.spans:
            is_claim = self.settings.gate and memory.origin.startswith("import:")
            if is_claim or memory.trust == "untrusted":
                return self._held(memory, {}, "it was read from a file", 0)
            own = memory if not memory.trust else memory.model_copy(update={"trust": ""})
            return Judged(memory=own)  # the application's own word
        spans = tuple(self._stamped(span, evidence) for span in evidence.spans)
        beyond = self.uncounted(evidence) if self.settings.gate else ()
        changes = {
            "evidence": evidence.model_copy(update={"spans": spans}),
            "support": max(memory.support - len(beyond), min(memory.support, 1)),
        }
        doubt = self._doubt(memory, spans)
        proof = self.successes(evidence) if doubt else []
        if not doubt:
            return Judged(memory=memory.model_copy(update={**changes, "trust": "trusted"}))
        if len(proof) >= self.settings.successes:
            told = _proven(proof)
            return Judged(memory=memory.model_copy(update={**changes, "trust": "corroborated"}), reason=told)
        if not self.settings.gate:
            return Judged(memory=memory.model_copy(update=changes))
        return self._held(memory, changes, doubt, len(proof))

    def _held(self, memory: Memory, changes: Mapping[str, object], doubt: str, n_proof: int) -> Judged:
        held = memory.model_copy(update={**changes, "trust": "untrusted", "status": "quarantined"})
        why = (
            f"{doubt}; {n_proof} of {self.settings.successes} independent verified successes "
            "(`agentkd memory admit` lets it in)"
        )
        return Judged(memory=held, reason=why)

    def settled(self, stored: Memory, candidate: Memory) -> tuple[MemoryTrust, str] | None:
        """Return what lets a waiting memory out now that a candidate said the same, and why; None for none.

        The same text from trusted words alone is trusted. A near copy is not: its own words never were.
        """
        if stored.trust != "untrusted":
            return None
        if candidate.id == stored.id and candidate.trust != "untrusted":
            if candidate.trust in ("", "admitted"):
                return "admitted", "the application or a person says the same, word for word"
            return "trusted", "trusted sources say the same, word for word"
        proof = self.successes(stored.evidence)
        return ("corroborated", _proven(proof)) if len(proof) >= self.settings.successes else None

    def _doubt(self, memory: Memory, spans: Sequence[Span]) -> str:
        """Return why a candidate's sources do not count by themselves; empty where they do.

        A correction that somebody answers for stands for its own run, not for others beside it.
        """
        runs = [known for id_ in memory.evidence.trajectories if (known := self._runs.get(id_))]
        said = {trajectory.id: self._said(memory.evidence, trajectory.id) for trajectory, _ in runs}
        vouched = {id_ for id_, corrections in said.items() if is_vouched(corrections)}
        doubts = [trust.doubt for trajectory, trust in runs if trust.doubt and trajectory.id not in vouched]
        unproven = [span for span in spans if span.trust != "trusted" and span.trajectory not in vouched]
        if doubts:
            return doubts[0]
        if unproven:
            return f"nothing in the ledger shows the words of origin `{unproven[0].origin}`"
        outside = [found for _, trust in runs for found in trust.outside]
        if outside:
            trusted = [text for run, _ in runs for text in _trusted_texts(run, said[run.id])]
            tool = carried(_words_of(memory), outside, trusted)
            return f"it carries words that the untrusted tool `{tool}` brought in" if tool else ""
        return "" if runs else "it names no run that is in the ledger"

    def _stamped(self, span: Span, evidence: Evidence) -> Span:
        """Return a span with its source as the ledger has it."""
        known = self._runs.get(span.trajectory)
        if known is None:
            return span.model_copy(update={"trust": "untrusted"})
        trajectory, trust = known
        told = {
            "principal": trust.principal,
            "tool": "",
            "trust": "trusted" if trust.is_trusted else "untrusted",
        }
        if span.origin in ("person", "judge", "grader"):
            told |= self._spoken(span, evidence, trajectory, trust)
        elif span.origin in ("tool", "model"):
            at = [found for found in trust.outside if found.step == span.step]
            if span.origin == "tool" and at:
                told |= {"tool": at[0].tool, "trust": "untrusted"}
            elif span.origin == "tool":
                calls = trajectory.steps[span.step].accepted_calls if _has(trajectory, span.step) else ()
                told |= {"tool": calls[0].name if calls else ""}
            elif trust.is_tainted(span.step):
                told |= {"tool": trust.outside[0].tool, "trust": "tainted"}
        return span.model_copy(update=told)

    def _spoken(
        self, span: Span, evidence: Evidence, trajectory: Trajectory, trust: RunTrust
    ) -> dict[str, str]:
        """Say whether a person, judge or grader said a span: a correction or the outcome must show it."""
        said = [c for c in self._said(evidence, trajectory.id) if c.source == span.origin]
        if any(c.source in VOUCHING and not c.imported_from for c in said):
            return {"principal": span.origin, "trust": "trusted"}
        if span.origin == "grader" and trajectory.outcome is not None and not trajectory.imported_from:
            return {"principal": trajectory.outcome.grader or "grader", "trust": "trusted"}
        is_opinion = span.origin == "judge" and bool(said) and trust.is_clean
        return {"principal": span.origin, "trust": "trusted" if is_opinion else "untrusted"}

    def _said(self, evidence: Evidence, trajectory_id: str) -> list[Correction]:
        named = set(evidence.corrections)
        return [c for c in self._corrections.get(trajectory_id, ()) if c.id in named]

    def _read(self, ids: Iterable[str]) -> None:
        missing = [id_ for id_ in dict.fromkeys(ids) if id_ not in self._runs]
        if not missing:
            return
        self._runs.update(dict.fromkeys(missing))
        gone = self._ledger.revocations.trajectories()  # what was revoked proves nothing
        for trajectory in self._ledger.trajectories.get_many(id_ for id_ in missing if id_ not in gone):
            self._runs[trajectory.id] = trajectory, trust_of_run(trajectory, self.settings)
        for correction in self._ledger.corrections.for_trajectories(missing):
            self._corrections.setdefault(correction.trajectory_id, []).append(correction)


def source_of(memory: Memory) -> str:
    """Return the untrusted source that a memory came from; empty where it has none."""
    for span in memory.evidence.spans:
        if span.trust in ("untrusted", "tainted"):
            return f"tool:{span.tool}" if span.tool else span.principal
    return ""


def _unvouched(memory: Memory) -> Memory:
    """Return a candidate without what it claims that a person saw of its runs."""
    if not memory.evidence.vouched:
        return memory
    return memory.model_copy(update={"evidence": memory.evidence.model_copy(update={"vouched": ()})})


def _proven(proof: Sequence[str]) -> str:
    return f"{len(proof)} independent verified successes: {', '.join(f'`{id_}`' for id_ in proof[:3])}"


def _has(trajectory: Trajectory, step: int) -> bool:
    return 0 <= step < len(trajectory.steps)


def _words_of(memory: Memory) -> str:
    return "\n".join([memory.when_to_use, memory.content, *memory.keys.texts().values()])


def _trusted_texts(trajectory: Trajectory, said: Iterable[Correction]) -> Iterable[str]:
    """Yield what the user asked and what was corrected: a lesson may repeat these."""
    if all(each.text != trajectory.task.prompt for each in trajectory.heard):  # else a summary stands for it
        yield trajectory.task.prompt
    yield trajectory.task.system
    for correction in said:
        yield "\n".join([correction.text, *map(call_text, correction.accepted), correction.accepted_answer])
