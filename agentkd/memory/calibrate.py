"""Measure an embedder's thresholds on a workspace's own memories.

Pairs that belong together: a request and a memory learnt from it (found by its other keys, never by the
request itself), a request and a memory learnt from another task of its group, and a task and a memory of
another task that it recalled when it succeeded. Pairs that do not: a request and a memory of another
group, with another lesson and other tools. Copies are situations with one word in eight left out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agentkd.errors import DataError
from agentkd.ledger import Calibration
from agentkd.memory.lesson import lesson_of
from agentkd.memory.lexical import LexicalIndex
from agentkd.memory.projection import key_texts
from agentkd.memory.status import INDEXED
from agentkd.protocols import Embedder
from agentkd.schema import Memory, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agentkd.ledger import Ledger

    Floats = NDArray[np.float64]

__all__ = ["CalibrationReport", "ThresholdRow", "calibrate"]

_FEWEST = 20  # pairs of a sort, below which nothing is said
_NEGATIVES = 20  # per request
_SIBLINGS = 3  # further memories of a request's group
_SHOWN = tuple(round(0.05 * step, 2) for step in range(1, 20))
_LEFT_OUT = 8  # one word in so many
_BY_CHANCE = 0.005  # share of strangers that words alone may bring in
_COPIES_LOST = 0.05  # share of copies that may go unseen


class ThresholdRow(Value):
    """What a threshold of recall would do."""

    threshold: float
    """Cosine similarity."""
    recall: float
    """Share of the pairs that belong together which lie at or above it."""
    fallout: float
    """Share of the other pairs which do."""
    precision: float
    """Share of right ones among what it lets through, with as many pairs of either sort."""


class CalibrationReport(Value):
    """Thresholds and the figures that they were read from."""

    calibration: Calibration
    """What is stored."""
    n_memories: int
    """Memories that were looked at."""
    related: tuple[float, float, float]
    """Quartiles of the cosine of pairs that belong together."""
    unrelated: tuple[float, float, float]
    """Quartiles of the cosine of the others."""
    copies: tuple[float, float, float]
    """Quartiles of the cosine of situations and their copies."""
    rows: tuple[ThresholdRow, ...]
    """Thresholds in steps of 0.05."""


@dataclass(frozen=True)
class _Pairs:
    """Requests, memories, and which of them belong together."""

    requests: list[str]
    memories: list[Memory]
    together: list[tuple[int, int]]
    apart: list[tuple[int, int]]


def calibrate(ledger: Ledger, embedder: Embedder, *, n: int = 500, seed: int = 0) -> CalibrationReport:
    """Measure thresholds on at most `n` memories; stores nothing; raises DataError for too few pairs."""
    pairs = _gather(ledger, n, random.Random(seed))
    for name, count in (("that belong together", len(pairs.together)), ("that do not", len(pairs.apart))):
        if count < _FEWEST:
            raise DataError(
                f"{count} pairs {name} are too few to calibrate by; {_FEWEST} are needed",
                hint="run and distil some more tasks, of several kinds",
                found=count,
            )
    cosine = _cosines(pairs, embedder)
    near, far = cosine(pairs.together), cosine(pairs.apart)
    copies, others = _situations(pairs.memories, embedder)
    words = _words(pairs)
    merge_above = float(
        np.clip(max(np.quantile(copies, _COPIES_LOST), np.quantile(others, 0.999)), 0.0, 0.99)
    )
    calibration = Calibration(
        fingerprint=embedder.fingerprint,
        min_score=_best_cut(near, far),
        min_words=round(max(0.2, float(np.quantile(words, 1.0 - _BY_CHANCE))), 3),
        related_above=round(min(merge_above, float(np.quantile(others, 0.995))), 3),
        merge_above=round(merge_above, 3),
        n_positive=len(near),
        n_negative=len(far),
        source=f"{len(pairs.memories)} memories of this ledger",
    )
    return CalibrationReport(
        calibration=calibration,
        n_memories=len(pairs.memories),
        related=_quartiles(near),
        unrelated=_quartiles(far),
        copies=_quartiles(copies),
        rows=tuple(_row(cut, near, far) for cut in _SHOWN),
    )


def _gather(ledger: Ledger, n: int, chance: random.Random) -> _Pairs:
    memories = ledger.memories.list(status=INDEXED)
    memories = chance.sample(memories, min(n, len(memories)))
    first = {m.id: m.evidence.trajectories[0] for m in memories if m.evidence.trajectories}
    told = {t.id: t.task for t in ledger.trajectories.get_many(dict.fromkeys(first.values()))}
    requests, groups = [], []
    for memory in memories:
        task = told.get(first.get(memory.id, ""))
        requests.append(task.prompt if task else memory.keys.task)
        groups.append((task.group or task.id) if task else memory.keys.task)
    lessons = [lesson_of(memory) for memory in memories]
    by_group: dict[str, list[int]] = {}
    for at, group in enumerate(groups):
        by_group.setdefault(group, []).append(at)
    tells = len({memory.keys.tools for memory in memories}) > 1  # one tool for all tells nothing apart
    together, apart = [], []
    for at, request in enumerate(requests):
        if not request.strip():
            continue
        together.append((at, at))
        siblings = [other for other in by_group[groups[at]] if requests[other] != request]
        together += [(at, other) for other in siblings[:_SIBLINGS]]
        for other in chance.sample(range(len(memories)), min(_NEGATIVES, len(memories))):
            tools = memories[at].keys.tools
            same_tools = tells and tools and tools == memories[other].keys.tools
            if groups[other] != groups[at] and lessons[other] != lessons[at] and not same_tools:
                apart.append((at, other))
    pairs = _Pairs(requests, memories, together, apart)
    _add_helpful(pairs, ledger)
    return pairs


def _add_helpful(pairs: _Pairs, ledger: Ledger) -> None:
    """Add tasks that succeeded with a memory that was learnt from another one."""
    place = {memory.id: at for at, memory in enumerate(pairs.memories)}
    won = [
        (recall.trajectory_id, place[recall.memory_id])
        for recall in ledger.memories.recalls()
        if recall.win and not recall.withheld and recall.step == 0 and recall.memory_id in place
    ]
    prompts = {
        t.id: t.task.prompt for t in ledger.trajectories.get_many(dict.fromkeys(id_ for id_, _ in won))
    }
    known = {request: at for at, request in enumerate(pairs.requests)}
    for id_, at in won:
        prompt = prompts.get(id_, "")
        if prompt and prompt != pairs.requests[at]:
            if prompt not in known:
                known[prompt] = len(pairs.requests)
                pairs.requests.append(prompt)
            pairs.together.append((known[prompt], at))


def _cosines(pairs: _Pairs, embedder: Embedder) -> Callable[[Sequence[tuple[int, int]]], Floats]:
    """Return what gives the cosine of each pair: the best key counts, but for the request itself."""
    texts = [list(key_texts(memory).values()) for memory in pairs.memories]
    flat = list(dict.fromkeys([*pairs.requests, *(text for own in texts for text in own)]))
    row = {text: at for at, text in enumerate(flat)}
    vectors = embedder.embed(flat)

    def cosine(wanted: Sequence[tuple[int, int]]) -> Floats:
        found = []
        for request, memory in wanted:
            own = [row[text] for text in texts[memory] if text != pairs.requests[request].strip()]
            if own:
                found.append(float((vectors[own] @ vectors[row[pairs.requests[request]]]).max()))
        return np.asarray(found or [0.0])

    return cosine


def _situations(memories: Sequence[Memory], embedder: Embedder) -> tuple[Floats, Floats]:
    """Return the cosines of situations with their copies, and with those of other lessons."""
    texts = [memory.keys.situation or memory.when_to_use for memory in memories]
    vectors = embedder.embed(texts)
    copied = [at for at, text in enumerate(texts) if len(text.split()) >= _LEFT_OUT // 2]
    copies = embedder.embed([_shortened(texts[at]) for at in copied])
    alike = np.sum(vectors[copied] * copies, axis=1, dtype=np.float64) if copied else np.asarray([1.0])
    lessons = np.asarray([lesson_of(memory) for memory in memories])
    differ = (lessons[:, None] != lessons[None, :]) & np.triu(np.ones((len(texts),) * 2, bool), 1)
    differ &= np.asarray(texts)[:, None] != np.asarray(texts)[None, :]
    others = (vectors @ vectors.T)[differ].astype(np.float64)
    return np.asarray(alike, np.float64), others if len(others) else np.zeros(1)


def _shortened(text: str) -> str:
    words = text.split()
    step = min(_LEFT_OUT, len(words))
    return " ".join(word for at, word in enumerate(words) if at % step != step // 2)


def _words(pairs: _Pairs) -> Floats:
    """Return the BM25 of the pairs that do not belong together."""
    index = LexicalIndex()
    try:
        index.change(
            (str(at), "all", "\n".join([*memory.keys.texts().values(), memory.when_to_use, memory.content]))
            for at, memory in enumerate(pairs.memories)
        )
        return np.asarray(list(_scores(pairs, index)))
    finally:
        index.close()


def _scores(pairs: _Pairs, index: LexicalIndex) -> Iterator[float]:
    by_request: dict[int, list[str]] = {}
    for request, memory in pairs.apart:
        by_request.setdefault(request, []).append(str(memory))
    for request, others in by_request.items():
        hits = index.search(pairs.requests[request], len(pairs.memories), ["all"])
        score = {hit.memory_id: hit.score for hit in hits}
        yield from (score.get(other, 0.0) for other in others)


def _best_cut(near: Floats, far: Floats) -> float:
    """Return the threshold that tells the two sorts apart best: recall less fallout is largest."""
    cuts = np.round(np.arange(0.0, 1.0, 0.01), 2)
    gain = [(near >= cut).mean() - (far >= cut).mean() for cut in cuts]
    return float(cuts[int(np.argmax(gain))])


def _row(cut: float, near: Floats, far: Floats) -> ThresholdRow:
    recall, fallout = float((near >= cut).mean()), float((far >= cut).mean())
    kept = recall + fallout
    return ThresholdRow(
        threshold=cut, recall=recall, fallout=fallout, precision=recall / kept if kept else 0.0
    )


def _quartiles(values: Floats) -> tuple[float, float, float]:
    low, middle, high = (round(float(q), 3) for q in np.quantile(values, [0.25, 0.5, 0.75]))
    return low, middle, high
