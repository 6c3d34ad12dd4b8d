"""Find the memories that help in a state: by meaning and by words, within the asker's scope, or not at all.

The indexes propose, the ledger decides: only memories that are current, that the asker's scope sees and
whose status for the serving checkpoint allows it are returned, whatever the indexes hold.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from agentkd.config import MemorySettings, TrustSettings
from agentkd.errors import ConfigError
from agentkd.memory.counter import with_counters_first
from agentkd.memory.fusion import diversify, fuse
from agentkd.memory.lexical import LexicalIndex
from agentkd.memory.projection import EMBEDDED, key_texts
from agentkd.memory.provenance import source_of
from agentkd.memory.scope import sees, visible_partitions
from agentkd.memory.status import RECALLED, Statuses
from agentkd.memory.threshold import Thresholds
from agentkd.protocols import Embedder, Index, IndexHit
from agentkd.schema import Hit, Memory, MemoryStatus, Scope, Utility, mean_lift
from agentkd.schema.lift import common_prior

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agentkd.ledger import Ledger

__all__ = ["RECALLED", "Asked", "Search", "excluded"]

_KEYS = len(EMBEDDED)  # a memory is in the index up to this many times
_MOST_TIED = 2048
_WIDER = 8  # growth of a search that found too few allowed memories
_NOWHERE = -2.0  # below every cosine
_MANY = 20_000  # memories from which searches run side by side
_SLOW = 0.002  # seconds of embedding from which the search by words runs beside it, however few there are

T = TypeVar("T")
Best = dict[str, tuple[float, str]]  # memory id -> (score, key) of its best key


@dataclass(frozen=True)
class Asked:
    """Who asks for how many memories, and what serves."""

    k: int
    """Most hits per state."""
    scope: Scope
    """The asker's."""
    checkpoint: str
    """What serves."""
    also: Collection[MemoryStatus]
    """Statuses that are recalled beside the usual ones."""
    seq: int
    """The ledger's newest event: statuses are at least as new."""
    thresholds: Thresholds
    """What is similar enough."""
    places: int = 0
    """Hits that are shown in the end, where later stages choose among `k`: sources share these; 0 for `k`."""
    utilities: Mapping[str, Utility] | None = None
    """Counters to rank by, of what was ever withheld; None for those of now."""

    def lift(self, memory: Memory) -> float:
        """Return the lift that ranking adds; 0 before the memory was ever withheld."""
        utility = memory.utility if self.utilities is None else self.utilities.get(memory.id, Utility())
        return mean_lift(utility, common_prior(utility)) if utility.held_out else 0.0


@dataclass
class _Pool:
    """What was found for one state, and how much of it has been looked at."""

    vector: NDArray[np.float32]
    """Of the state."""
    dense: Best
    """Found by meaning."""
    words: dict[str, float]
    """Found by words: BM25 by id."""
    ranked: list[tuple[str, float]]
    """All of it with its relevance, best first."""
    hits: list[tuple[float, Hit]] = field(default_factory=list)
    """What was read and is similar enough, with its relevance."""
    by_source: Counter[str] = field(default_factory=Counter)
    """How many of them came from each untrusted source."""

    def promising(self, n: int, thresholds: Thresholds) -> list[tuple[str, float]]:
        """Take out the next `n` of what may be similar enough."""
        floor = min((score for score, _ in self.dense.values()), default=1.0)
        taken: list[tuple[str, float]] = []
        while self.ranked and len(taken) < n:
            id_, relevance = self.ranked.pop(0)
            score = self.dense[id_][0] if id_ in self.dense else floor  # words alone: at most about that
            if score >= thresholds.min_score or self.words.get(id_, 0.0) >= thresholds.min_words:
                taken.append((id_, relevance))
        return taken


class Search:
    """Multi-key search by meaning and by words over the partitions that an asker sees."""

    def __init__(
        self,
        ledger: Ledger,
        index: Index,
        embedder: Embedder,
        settings: MemorySettings,
        words: LexicalIndex | None = None,
        trust: TrustSettings | None = None,
    ) -> None:
        self._trust = trust or TrustSettings()
        self._memories = ledger.memories
        self._index = index
        self._embedder = embedder
        self._settings = settings
        self._words = words
        self._statuses = Statuses(ledger)
        self._threads: ThreadPoolExecutor | None = None
        self._embedding = 0.0  # seconds of the last one

    def find(
        self, states: Sequence[str], asked: Asked, exclude: Sequence[Collection[str]]
    ) -> list[list[Hit]]:
        """Return at most `asked.k` hits per state, best first; `exclude` holds ids per state.

        Where some are retired for the checkpoint, their places go to what is new to it or in no weights.
        """
        statuses, has_places = self._statuses, not (self._settings.refill or "retired" in asked.also)
        if has_places and asked.checkpoint != "base":
            before = self._found(
                states, asked, exclude, statuses.before(asked.checkpoint, asked.also, asked.seq)
            )
            return self._filled(states, asked, exclude, before)
        return self._found(states, asked, exclude, statuses.allowed(asked.checkpoint, asked.also, asked.seq))

    def _filled(
        self,
        states: Sequence[str],
        asked: Asked,
        exclude: Sequence[Collection[str]],
        before: Sequence[list[Hit]],
    ) -> list[list[Hit]]:
        """Drop what the weights hold from hits; its places go to what is new to them, or stay empty.

        The next best memory of those days was not worth a place before, and is not now: shown beside the
        weights it can only turn them away from what they learnt. Facts and the like, which never go into
        weights, take what weights set free.
        """
        kept = [[hit for hit in hits if hit.memory.status != "retired"] for hits in before]
        short = [at for at, hits in enumerate(kept) if len(hits) < len(before[at])]
        if not short:
            return kept
        out = [{*exclude[at], *(hit.memory.id for hit in before[at])} for at in short]
        news = self._statuses.news(asked.checkpoint, asked.seq)
        for at, hits in zip(short, self._found([states[at] for at in short], asked, out, news), strict=True):
            kept[at] += hits[: len(before[at]) - len(kept[at])]
        return kept

    def _found(
        self,
        states: Sequence[str],
        asked: Asked,
        exclude: Sequence[Collection[str]],
        allowed: Collection[str],
    ) -> list[list[Hit]]:
        """Return the `asked.k` best of the allowed memories per state."""
        if not states or asked.k < 1 or not allowed:
            return [[] for _ in states]
        pools = self._pools(states, asked, allowed, exclude)
        self._look(pools, asked, self._wanted(asked.k))
        return [self._chosen(pool, asked.k) for pool in pools]

    def _wanted(self, k: int) -> int:
        """Return how many hits are looked at for `k`: more where something reorders them."""
        settings = self._settings
        return k * (4 if settings.diversity else 1) + (4 if settings.lift_weight else 0)

    def _pools(
        self,
        states: Sequence[str],
        asked: Asked,
        allowed: Collection[str],
        exclude: Sequence[Collection[str]],
    ) -> list[_Pool]:
        partitions = visible_partitions(asked.scope)
        wanted = self._wanted(asked.k)
        depth = max(wanted, 2 * asked.k + 24) if self._words is not None else wanted

        def by_words() -> list[dict[str, float]]:
            return [
                self._by_words(state, wanted, depth, partitions, allowed, out)
                for state, out in zip(states, exclude, strict=True)
            ]

        beside = self._beside(by_words, is_worth=self._embedding >= _SLOW)
        begun = time.perf_counter()
        vectors = self._embedder.embed(states)
        self._embedding = time.perf_counter() - begun
        cut = asked.thresholds.min_score
        dense = self._nearest(vectors, wanted, depth, cut, partitions, allowed, exclude)
        pools = []
        for vector, best, words in zip(vectors, dense, beside(), strict=True):
            cosines = {id_: score for id_, (score, _) in best.items()}
            ranked = fuse(cosines, words, weight=self._settings.lexical_weight)
            pools.append(_Pool(vector, best, words, ranked))
        return pools

    def _beside(self, work: Callable[[], T], *, is_worth: bool = False) -> Callable[[], T]:
        """Begin a search in a thread of its own where it takes longer than to wake one.

        Both indexes let other threads run while they search. Returns what waits for the result.
        """
        if self._words is None:
            return work
        is_large = self._words.count() >= _MANY  # the count refuses in a forked child
        if not (is_large or is_worth):
            return work
        if self._threads is None:
            self._threads = ThreadPoolExecutor(2, thread_name_prefix="agentkd-recall")
        return self._threads.submit(work).result

    def _look(self, pools: Sequence[_Pool], asked: Asked, wanted: int) -> None:
        """Read ranked memories, in few queries for many states, until each state has enough hits."""
        pending = list(pools)
        while pending:
            parts = [pool.promising(wanted - len(pool.hits), asked.thresholds) for pool in pending]
            ids = dict.fromkeys(id_ for part in parts for id_, _ in part)
            known = {m.id: m for m in self._memories.get_many(ids, asked.checkpoint)} if ids else {}
            self._measure(pending, parts, known)
            for pool, part in zip(pending, parts, strict=True):
                for id_, relevance in part:
                    if id_ in known and sees(asked.scope, known[id_].scope):
                        self._take(pool, known[id_], relevance, asked)
            still = zip(pending, parts, strict=True)
            pending = [pool for pool, part in still if part and len(pool.hits) < wanted]

    def _measure(
        self,
        pools: Sequence[_Pool],
        parts: Sequence[Sequence[tuple[str, float]]],
        known: dict[str, Memory],
    ) -> None:
        """Fill in the cosine of what was found by words alone; its texts are in the embedder's cache."""
        lacking = [
            (pool, id_, key, text)
            for pool, part in zip(pools, parts, strict=True)
            for id_, _ in part
            if id_ not in pool.dense and id_ in known
            for key, text in key_texts(known[id_]).items()
        ]
        if lacking:
            vectors = self._embedder.embed([text for *_, text in lacking])
            for (pool, id_, key, _), vector in zip(lacking, vectors, strict=True):
                score = round(float(min(1.0, vector @ pool.vector)), 6)
                if score > pool.dense.get(id_, (_NOWHERE, ""))[0]:
                    pool.dense[id_] = (score, key)

    def _take(self, pool: _Pool, memory: Memory, relevance: float, asked: Asked) -> None:
        """Keep what is similar enough, and of one untrusted source no more than its share."""
        score, key = pool.dense[memory.id]
        thresholds, source = asked.thresholds, source_of(memory) if self._trust.gate else ""
        if source and pool.by_source[source] >= max(
            1, int((asked.places or asked.k) * self._trust.max_share)
        ):
            return
        if score >= thresholds.min_score or pool.words.get(memory.id, 0.0) >= thresholds.min_words:
            bonus = 1.0 if memory.counters else self._settings.lift_weight * asked.lift(memory)
            pool.by_source[source] += 1
            pool.hits.append((relevance + bonus, Hit(memory=memory, score=score, key=key)))

    def _chosen(self, pool: _Pool, k: int) -> list[Hit]:
        """Return the `k` best of what was read, by relevance and, where that is asked for, by diversity."""
        pool.hits.sort(key=lambda item: -item[0])  # stable: equals stay in the order of the search
        if self._settings.max_gap is not None and pool.hits:
            least = max(hit.score for _, hit in pool.hits) - self._settings.max_gap
            pool.hits = [item for item in pool.hits if item[1].score >= least]
        hits = [hit for _, hit in pool.hits]
        if self._settings.diversity and len(hits) > 1:
            vectors = self._embedder.embed([key_texts(hit.memory)[hit.key] for hit in hits])
            relevance = [value for value, _ in pool.hits]
            order = diversify(relevance, vectors, k, weight=self._settings.diversity)
            hits = [hits[at] for at in order]
        return with_counters_first(hits, k)

    def _by_words(
        self,
        state: str,
        k: int,
        depth: int,
        partitions: Sequence[str],
        allowed: Collection[str],
        exclude: Collection[str],
    ) -> dict[str, float]:
        """Return the BM25 of at most `depth` allowed memories, wider until the `k` best are certain.

        Of equals at the end of what was found some are missing, and it is chance which: none of them counts.
        Where more than `_MOST_TIED` share the words that decide, those tell nothing.
        """
        if self._words is None:
            return {}
        size = depth + len(exclude)
        while True:
            found = self._words.search(state, size, partitions)
            least = found[-1].score if len(found) >= size else 0.0
            own = [hit for hit in found if hit.memory_id in allowed and hit.memory_id not in exclude]
            fit = [(-round(hit.score, 6), hit.memory_id) for hit in own if hit.score > least]
            is_tie = len(own) >= k and size >= _MOST_TIED
            if len(fit) >= k or len(found) < size or is_tie:
                return {id_: -score for score, id_ in sorted(fit)[:depth]}
            size *= _WIDER

    def _nearest(
        self,
        vectors: NDArray[np.float32],
        k: int,
        depth: int,
        cut: float,
        partitions: Sequence[str],
        allowed: Collection[str],
        exclude: Sequence[Collection[str]],
    ) -> list[Best]:
        """Return at most `depth` allowed memories per state, searching wider until the `k` best are certain.

        Memories below `cut` are not looked for, and returned only where they turned up: fusion needs to
        know how far the others are off.
        """
        found: list[Best] = [{} for _ in vectors]
        pending = list(range(len(vectors)))
        out = max((len(ids) for ids in exclude), default=0)
        size = max(_KEYS * (k + out), depth + out)
        while pending:
            merged: list[Best] = [{} for _ in pending]
            unseen = [_NOWHERE] * len(pending)  # no vector that was not returned is more similar than this
            for near in self._near(vectors[pending], size, partitions):
                for at, hits in enumerate(near):
                    for hit in hits:
                        score = round(hit.score, 6)  # the rest is noise, and would order equals at random
                        if score > merged[at].get(hit.memory_id, (_NOWHERE, ""))[0]:
                            merged[at][hit.memory_id] = (score, hit.key)
                    if len(hits) >= size:
                        unseen[at] = max(unseen[at], round(hits[-1].score, 6))
            wider = []
            for at, state in enumerate(pending):
                found[state] = _top(merged[at], depth, allowed, exclude[state])
                if unseen[at] >= cut and _is_uncertain(found[state], k, unseen[at]):
                    wider.append(state)
            pending, size = wider, size * _WIDER
        return found

    def _near(
        self, vectors: NDArray[np.float32], size: int, partitions: Sequence[str]
    ) -> Iterator[Sequence[Sequence[IndexHit]]]:
        """Yield what each partition holds near some vectors, first of the one that everybody sees."""
        others = partial(self._queried, vectors, size, partitions[1:])
        beside = self._beside(others) if len(partitions) > 1 else others
        yield from self._queried(vectors, size, partitions[:1])
        yield from beside()

    def _queried(
        self, vectors: NDArray[np.float32], size: int, partitions: Sequence[str]
    ) -> list[Sequence[Sequence[IndexHit]]]:
        return [self._index.query(vectors, size, partition) for partition in partitions]


def _top(merged: Best, depth: int, allowed: Collection[str], exclude: Collection[str]) -> Best:
    fit = [(score, id_, key) for id_, (score, key) in merged.items() if id_ in allowed and id_ not in exclude]
    fit.sort(key=lambda hit: (-hit[0], hit[1]))
    return {id_: (score, key) for score, id_, key in fit[:depth]}


def _is_uncertain(best: Best, k: int, unseen: float) -> bool:
    """Whether one of the `k` best may not have been returned yet; `best` is in order."""
    return len(best) < k or list(best.values())[k - 1][0] <= unseen


def excluded(states: Sequence[str], exclude: Iterable[Iterable[str]] | None) -> list[frozenset[str]]:
    """Return one set of excluded ids per state; raises ConfigError where the numbers differ."""
    sets = [frozenset(ids) for ids in exclude] if exclude is not None else [frozenset()] * len(states)
    if len(sets) != len(states):
        raise ConfigError(f"{len(sets)} sets of excluded ids for {len(states)} states")
    return sets
