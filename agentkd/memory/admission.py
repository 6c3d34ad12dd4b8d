"""Let candidates in: plugins may refuse, near copies corroborate, untrusted ones wait, the rest is visible.

All candidates of one call are stored in one ledger transaction, so a recall sees all of them or none,
and no other process can store a copy in between. Only what has a possible copy is embedded here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from agentkd import hookspecs
from agentkd.config import TrustSettings
from agentkd.errors import NotFoundError, PluginError
from agentkd.memory.echo import Echoes, refused_source
from agentkd.memory.lesson import lesson_of, name_lessons
from agentkd.memory.projection import key_texts
from agentkd.memory.provenance import Gate, Judged
from agentkd.plugins import Hooks
from agentkd.protocols import Embedder
from agentkd.schema import Memory, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agentkd.ledger import Ledger
    from agentkd.ledger.admission import Told

__all__ = ["Admission", "admit"]

_COMPARED = ("situation", "task")
_WELCOME = ("candidate", "active", "quarantined")


class Admission(Value):
    """What became of one candidate."""

    memory_id: str
    """The memory that now holds the lesson: the candidate, or the one that it was merged into."""
    outcome: Literal["stored", "merged", "rejected", "failed"]
    """`merged` where it corroborated another memory; `failed` where a plugin broke while judging it."""
    reason: str = ""
    """Why; empty for a stored candidate that can be recalled."""
    waits: bool = False
    """Whether the memory waits in quarantine: its sources do not count by themselves."""
    candidate_id: str = ""
    """The candidate, where it was merged into another memory."""


def admit(
    candidates: Iterable[Memory],
    *,
    ledger: Ledger,
    embedder: Embedder,
    hooks: Hooks,
    merge_above: float,
    trust: TrustSettings | None = None,
    vouched: bool = False,
) -> list[Admission]:
    """Judge and store candidates; returns one answer per candidate, in their order.

    `trust` is `[trust]`, its defaults where it is left out; `vouched` says that a person answers for all of
    them.
    """
    batch = list(candidates)
    echoes = Echoes(batch, ledger, embedder, merge_above)
    answers: list[Admission | None] = []
    fit: list[Memory] = []
    for memory in batch:
        answer = _refusal(memory, hooks, echoes)
        kept, echoed = (memory, "") if answer is not None else echoes.without(memory)
        if kept is None:
            answer = _rejected(memory, f"an echo: its own run was shown `{echoed}`, which says the same")
        elif answer is None:
            fit.append(kept)
        answers.append(answer)
    gate = Gate(ledger, trust or TrustSettings())
    judged = iter(_Desk(ledger, embedder, merge_above, gate).take(gate.judge(fit, vouched=vouched)))
    return [answer if answer is not None else next(judged) for answer in answers]


def _refusal(memory: Memory, hooks: Hooks, echoes: Echoes) -> Admission | None:
    if memory.status not in _WELCOME:
        return _rejected(memory, f"its status is `{memory.status}`; candidates are judged here")
    if not key_texts(memory):
        return _rejected(memory, "it has no key by which it could be found")
    reason = refused_source(memory, echoes.shown(memory))
    if reason:
        return _rejected(memory, reason)
    try:
        plugins = hooks.refusals(hookspecs.admit_memory, memory=memory)
    except PluginError as error:
        return Admission(memory_id=memory.id, outcome="failed", reason=str(error))
    return _rejected(memory, f"refused by {', '.join(f'`{name}`' for name in plugins)}") if plugins else None


class _Desk:
    """Decides for each candidate whether it is stored or corroborates a memory that says the same."""

    def __init__(self, ledger: Ledger, embedder: Embedder, merge_above: float, gate: Gate) -> None:
        self._ledger = ledger
        self._embedder = embedder
        self._merge_above = merge_above
        self._gate = gate
        self._reasons: dict[str, str] = {}
        self._vectors: dict[str, NDArray[np.float32]] = {}

    def take(self, judged: Sequence[Judged]) -> list[Admission]:
        """Store or merge candidates in one transaction; returns one answer for each, in their order."""
        if not judged:
            return []
        memories = [each.memory for each in judged]
        self._reasons = {each.memory.id: each.reason for each in judged}
        lessons = {memory.id: lesson_of(memory) for memory in memories}
        seen = self._ledger.memories.last_seq()
        name_lessons(self._ledger)
        alike = self._embed(memories, lessons)  # the slow part, before the ledger is locked
        with self._ledger.transaction():
            if self._ledger.memories.last_seq() != seen:  # a copy may have been stored meanwhile
                alike = self._embed(memories, lessons)
            twins = self._twins(memories, [alike[lessons[memory.id]] for memory in memories])
            fresh = [memory for memory, twin in zip(memories, twins, strict=True) if twin is None]
            stored = self._store(fresh, lessons)
            answers = [
                stored.pop(0) if twin is None else self._merge(memory, *twin, lessons)
                for memory, twin in zip(memories, twins, strict=True)
            ]
            return [self._settled(answer, memory) for answer, memory in zip(answers, memories, strict=True)]

    def _embed(self, memories: Sequence[Memory], lessons: Mapping[str, str]) -> dict[str, list[Memory]]:
        """Return, by lesson, what is stored and given; embed it where there are two to be compared."""
        alike = self._ledger.memories.lessons_alike(set(lessons.values()))
        for memory in memories:
            group = alike.setdefault(lessons[memory.id], [])
            if all(other.id != memory.id for other in group):
                group.append(memory)
        several = [memory for group in alike.values() if len(group) > 1 for memory in group]
        texts = dict.fromkeys(text for memory in several for text in _compared(memory).values())
        missing = [text for text in texts if text not in self._vectors]
        if missing:
            self._vectors.update(zip(missing, self._embedder.embed(missing), strict=True))
        return alike

    def _twins(
        self, memories: Sequence[Memory], groups: Sequence[Sequence[Memory]]
    ) -> list[tuple[Memory, float] | None]:
        """Return the twin of each candidate; one that has a twin is not stored, so it is nobody's twin."""
        given = {id(memory) for memory in memories}
        merged: set[str] = set()
        twins: list[tuple[Memory, float] | None] = []
        for memory, group in zip(memories, groups, strict=True):
            is_there = any(other.id == memory.id and id(other) not in given for other in group)
            left = [other for other in group if other.id == memory.id or other.id not in merged]
            twins.append(None if is_there else self._twin(memory, left))  # the ledger merges equal ones
            if twins[-1] is not None:
                merged.add(memory.id)
        return twins

    def _twin(self, memory: Memory, alike: Sequence[Memory]) -> tuple[Memory, float] | None:
        """Return the memory before this one that is closest to it, where it is close enough."""
        from agentkd.ledger.item import ITEM_ORIGIN

        best, best_score = None, self._merge_above
        for other in alike:
            if other.id == memory.id:
                break  # those behind it came later
            is_apart = other.privacy != memory.privacy or other.origin == ITEM_ORIGIN
            if is_apart and other.status != "revoked":
                continue  # nobody would find the lesson there, or it would be no longer private
            if other.trust == "untrusted" and memory.trust != "untrusted":
                continue  # what waits takes nothing in: its words would be let out by another's sources
            score = self._score(memory, other)
            if score > best_score:
                best, best_score = other, score
        return None if best is None else (best, best_score)

    def _score(self, memory: Memory, other: Memory) -> float:
        """Return the best cosine of keys of one name, or of a situation with one that was taken in."""
        own, theirs = _compared(memory), _compared(other)
        pairs = [(own[name], theirs[name]) for name in own if name in theirs]
        pairs += [(own[name], text) for name in own for text in other.keys.more]
        return max((float(self._vectors[a] @ self._vectors[b]) for a, b in pairs), default=-1.0)

    def _store(self, memories: Sequence[Memory], lessons: Mapping[str, str]) -> list[Admission]:
        ready = [
            m.model_copy(update={"status": "active"}) if m.status == "candidate" else m for m in memories
        ]
        limited = [memory.id for memory in ready if memory.trust not in ("", "trusted")]
        there = {memory.id: memory for memory in self._ledger.memories.get_many(limited)}
        told = {memory.id: self._told(memory, there.get(memory.id)) for memory in ready}
        return [
            Admission(
                memory_id=answer.memory_id,
                outcome=answer.outcome,
                reason=answer.reason,
                candidate_id=memory.id if answer.memory_id != memory.id else "",
            )
            for memory, answer in zip(ready, self._ledger.memories.admit(ready, lessons, told), strict=True)
        ]

    def _told(self, memory: Memory, there: Memory | None) -> Told:
        """Return what the gate said; which runs raise no support depends on what an equal memory rests on."""
        if memory.trust in ("", "trusted"):
            return _told_of()
        beyond = self._beyond(there, memory) if there is not None else frozenset[str]()
        return _told_of(self._reasons.get(memory.id, ""), beyond)

    def _beyond(self, there: Memory, memory: Memory) -> frozenset[str]:
        """Return the runs of a candidate that add nothing to the support of a memory that takes it in."""
        if not self._gate.settings.gate or memory.trust in ("", "trusted"):
            return frozenset()  # no source of it has a limit
        runs = dict.fromkeys((*there.evidence.trajectories, *memory.evidence.trajectories))
        return self._gate.uncounted(there.evidence.model_copy(update={"trajectories": tuple(runs)}))

    def _settled(self, answer: Admission, memory: Memory) -> Admission:
        """Let out what a candidate corroborated, where that is enough; say of the others that they wait."""
        is_new = answer.outcome == "stored" and memory.trust != "untrusted"
        if is_new or answer.outcome not in ("stored", "merged"):
            return answer
        stored = self._ledger.memories.get(answer.memory_id)
        if stored.trust != "untrusted":
            return answer
        word = self._gate.settled(stored, memory)
        if word is None or not self._ledger.memories.let_out(stored.id, *word):
            why = answer.reason or self._reasons.get(memory.id, "")
            return answer.model_copy(update={"waits": True, "reason": why})
        return answer.model_copy(update={"reason": f"let out of quarantine by {word[1]}"})

    def _merge(self, memory: Memory, twin: Memory, score: float, lessons: Mapping[str, str]) -> Admission:
        if twin.status == "revoked":
            return _rejected(memory, f"a near copy, `{twin.id}`, was revoked (cosine {score:.2f})")
        if twin.id not in self._ledger.memories.status_for("base", [twin.id]):
            return self._store([memory], lessons)[0]  # the twin was a candidate and was not stored
        try:
            beyond = self._beyond(twin, memory)
            rise = self._ledger.memories.corroborate(twin.id, memory.evidence, beyond, memory.trust)
        except NotFoundError as error:
            return _rejected(memory, error.message)
        return Admission(
            memory_id=twin.id,
            outcome="merged",
            reason=f"the same lesson for the same situation (cosine {score:.2f}); support +{rise}",
            candidate_id=memory.id,
        )


@lru_cache(maxsize=256)
def _told_of(reason: str = "", uncounted: frozenset[str] = frozenset()) -> Told:
    from agentkd.ledger.admission import Told

    return Told(reason=reason, uncounted=uncounted)


def _compared(memory: Memory) -> dict[str, str]:
    texts = memory.keys.texts() or {"situation": memory.when_to_use}
    names = [name for name in texts if name in _COMPARED or name.startswith("more-")]
    return {name: texts[name] for name in names} or {"situation": memory.when_to_use}


def _rejected(memory: Memory, reason: str) -> Admission:
    return Admission(memory_id=memory.id, outcome="rejected", reason=reason)
