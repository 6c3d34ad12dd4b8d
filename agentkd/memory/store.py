"""MemoryStore: the memories of a workspace behind one object; also its recaller."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from agentkd.config import MemorySettings, TrustSettings
from agentkd.errors import AgentkdError
from agentkd.memory.admission import Admission, admit
from agentkd.memory.audit import Audit, audit
from agentkd.memory.check import IndexCheck, check_index
from agentkd.memory.counter import with_counters_first
from agentkd.memory.edit import Edit, apply_refiner
from agentkd.memory.lexical import LexicalIndex
from agentkd.memory.projection import Projection
from agentkd.memory.ranked import RankedBefore
from agentkd.memory.recall import Asked, Search, excluded
from agentkd.memory.recaller import candidates_of, staged
from agentkd.memory.render import fitting, render, token_counter
from agentkd.memory.renewal import Renewal
from agentkd.memory.settling import Settling
from agentkd.memory.threshold import Thresholds, thresholds_for
from agentkd.plugins import Hooks
from agentkd.protocols import Embedder, Index, Kit, Progress, RecallStage, Refiner, SilentProgress
from agentkd.schema import Hit, Memory, MemoryStatus, Scope, Utility

if TYPE_CHECKING:
    from agentkd.ledger import Ledger

__all__ = ["MemoryStore"]


class MemoryStore:
    """Memories: the ledger is the truth, the index its projection; safe to use from several threads.

    Statuses may be changed here or in the ledger directly, by this or another process: every recall
    follows the ledger's events first.
    """

    def __init__(
        self,
        ledger: Ledger,
        index: Index,
        embedder: Embedder,
        settings: MemorySettings,
        hooks: Hooks,
        progress: Progress | None = None,
        *,
        words: Path | None = None,
        stages: Sequence[RecallStage] = (),
        kit: Kit | None = None,
        trust: TrustSettings | None = None,
    ) -> None:
        """Compose a store; it closes the index, not the ledger, when it is closed.

        Args:
            ledger: The truth.
            index: Holds the vectors.
            embedder: Makes them.
            settings: `[memory]`.
            hooks: Plugins that may refuse a candidate.
            progress: Shows long projections.
            words: Folder of the index of words; None keeps one for the life of the store.
            stages: Re-rank or reword what a recall found, in order.
            kit: What the stages may use; needed where there are some.
            trust: `[trust]`: whose words count; its defaults where it is left out.
        """
        self.settings = settings
        self.trust = trust or TrustSettings()
        self._stages = tuple(stages)
        self._kit = kit
        self._words = LexicalIndex(words) if settings.hybrid else None
        self._ledger = ledger
        self._index = index
        self._embedder = embedder
        self._hooks = hooks
        self._progress = progress or SilentProgress()
        self._projection = Projection(ledger, index, embedder, self._progress, self._words)
        self._search = Search(ledger, index, embedder, settings, self._words, self.trust)
        self._settling = Settling(self._projection)
        self._thresholds: Thresholds | None = None
        self._renewal: Renewal | None = None

    @property
    def embedder(self) -> Embedder:
        """What turns texts into vectors here."""
        return self._embedder

    @property
    def hooks(self) -> Hooks:
        """Plugins that may refuse what comes in."""
        return self._hooks

    @property
    def thresholds(self) -> Thresholds:
        """What counts as similar here: as set, else as calibrated or shipped for the embedder; read once."""
        if self._thresholds is None:
            self._thresholds = thresholds_for(self._embedder.fingerprint, self.settings, self._ledger)
        return self._thresholds

    def admit(self, candidates: Iterable[Memory], *, vouched: bool = False) -> list[Admission]:
        """Judge, store and index candidates; returns one answer per candidate, in their order.

        What rests on untrusted words waits in quarantine, unless a person answers for all of it (`vouched`).
        """
        answers = admit(
            candidates,
            ledger=self._ledger,
            embedder=self._embedder,
            hooks=self._hooks,
            merge_above=self.thresholds.merge_above,
            trust=self.trust,
            vouched=vouched,
        )
        self._projection.sync(words=False)
        self._settling.used()
        return answers

    def recall(
        self,
        state: str,
        k: int | None = None,
        *,
        scope: Scope | None = None,
        checkpoint: str = "base",
        exclude: Iterable[str] = (),
        also: Collection[MemoryStatus] = (),
    ) -> list[Hit]:
        """Return at most `k` hits for a state, best first; empty where nothing is similar enough.

        Args:
            state: What the agent faces, in words.
            k: Most hits; `[memory] k` by default.
            scope: Who asks; `[memory] scope` by default. A memory is seen where every field that its
                scope sets is equal.
            checkpoint: What serves; memories retired for it are left out.
            exclude: Ids that are not returned.
            also: Further statuses to return: `retired`.
        """
        found = self.recall_many([state], k, scope=scope, checkpoint=checkpoint, exclude=[exclude], also=also)
        return found[0]

    def recall_many(
        self,
        states: Sequence[str],
        k: int | None = None,
        *,
        scope: Scope | None = None,
        checkpoint: str = "base",
        exclude: Iterable[Iterable[str]] | None = None,
        also: Collection[MemoryStatus] = (),
        utilities: Mapping[str, Utility] | None = None,
    ) -> list[list[Hit]]:
        """Recall for many states at one time; `exclude` holds one collection of ids per state.

        `utilities` are counters to rank by in the place of those of now.
        """
        seq = self._ledger.memories.last_seq()
        if seq > self._projection.seen:
            self._projection.sync()
        self._settling.used()
        most = self.settings.k if k is None else k
        asked = Asked(
            k=max(most, candidates_of(self._stages)) if most > 0 else most,
            scope=self.settings.scope if scope is None else scope,
            checkpoint=checkpoint,
            also=also,
            seq=seq,
            thresholds=self.thresholds,
            places=most,
            utilities=utilities,
        )
        found = self._search.find(states, asked, excluded(states, exclude))
        return [
            with_counters_first(self._staged(state, hits), most)
            for state, hits in zip(states, found, strict=True)
        ]

    def _staged(self, state: str, hits: Sequence[Hit]) -> list[Hit]:
        """Let the stages work on all hits but counter-memories, which nothing may drop or reword."""
        against = [hit for hit in hits if hit.memory.counters]
        others = [hit for hit in hits if not hit.memory.counters]
        return [*against, *staged(self._stages, state, others, self._kit)]

    def before_run(self, run_id: str) -> RankedBefore:
        """Return a recaller that ranks by the lifts of before a run, whatever its tasks teach of them.

        So all tasks of a run meet the same ranking: in any order, by any number of workers, after a kill.
        """
        return RankedBefore(self, self._ledger.memories.utilities_before(run_id))

    def render(self, hits: Sequence[Hit]) -> str:
        """Return the hits as notes for a prompt, the most similar last; empty for no hits."""
        return render(hits, *self._room())

    def fitting(self, hits: Sequence[Hit]) -> list[Hit]:
        """Return the hits that `render` shows, best first: the others are beyond its limits."""
        return fitting(hits, *self._room())

    def _room(self) -> tuple[int, int, Callable[[str], int]]:
        settings = self.settings
        return settings.max_rendered_chars, settings.max_rendered_tokens, token_counter(self._embedder)

    def sync(self) -> int:
        """Bring the index up to the ledger and return the number of events followed."""
        return self._projection.sync()

    def settle(self) -> None:
        """Let the index write at once what waits in memory; it would in idle moments, and by `close`."""
        self._projection.settle()

    def rebuild(self) -> int:
        """Make the index anew from the ledger and return the number of events followed."""
        return self._projection.rebuild()

    def refine(self, refiners: Iterable[Refiner], kit: Kit) -> list[Edit]:
        """Let refiners judge all current memories, one after the other; returns what they changed.

        What a plugin refused is among it, with its `refusal`.
        """
        edits: list[Edit] = []
        for refiner in refiners:
            edits += apply_refiner(refiner, kit, self._ledger, self._hooks)
        self._projection.sync(words=False)
        return edits

    def set_status(self, memory_id: str, status: MemoryStatus, reason: str, checkpoint: str = "base") -> bool:
        """Set a memory's status where `checkpoint` serves; False when it is so already.

        Raises NotFoundError. Statuses of a checkpoint do not touch the base: after a roll-back the
        memory is as active as before.
        """
        changed = self._ledger.memories.set_status(memory_id, status, reason, checkpoint)
        self._projection.sync(words=False)
        return changed

    def revoke(self, memory_id: str, reason: str) -> bool:
        """Take a memory back for good; checkpoints trained on it are marked tainted."""
        return self.set_status(memory_id, "revoked", reason)

    def history(self, memory_id: str) -> list[Memory]:
        """Return all versions of a memory, the first one first; raises NotFoundError."""
        return self._ledger.memories.history(memory_id)

    def recall_at(
        self, state: str, at: datetime, k: int | None = None, *, scope: Scope | None = None
    ) -> list[Hit]:
        """Return what a recall could have found at an earlier time, by meaning alone."""
        from agentkd.memory.timeline import recall_at

        return recall_at(
            self._ledger,
            self._embedder,
            state,
            at,
            k=self.settings.k if k is None else k,
            min_score=self.thresholds.min_score,
            scope=self.settings.scope if scope is None else scope,
        )

    def undo(self, memory_id: str, reason: str = "") -> tuple[str, ...]:
        """Take a memory's last merge, supersession or change of status back; returns the ids changed.

        No refiner makes the same edit again. Raises DataError where nothing can be taken back.
        """
        changed = self._ledger.memories.undo(memory_id, reason)
        self._projection.sync(words=False)
        return changed

    def let_in(self, memory_ids: Iterable[str], reason: str) -> tuple[str, ...]:
        """Admit memories that wait for it, by a person's word, all at one time; returns those that waited.

        Raises NotFoundError for an unknown id and DataError for a revoked one; then none is admitted.
        """
        wanted = dict.fromkeys(memory_ids)
        with self._ledger.transaction():
            waiting = [id_ for id_ in wanted if self._ledger.memories.get(id_).trust == "untrusted"]
            done = tuple(id_ for id_ in waiting if self._ledger.memories.activate(id_, reason))
        self._projection.sync(words=False)
        return done

    def activate(self, memory_id: str, reason: str) -> bool:
        """Bring a quarantined or laid-to-rest memory back by a person's word; False when it is active."""
        changed = self._ledger.memories.activate(memory_id, reason)
        self._projection.sync(words=False)
        return changed

    def check(self, *, deep: bool = False) -> IndexCheck:
        """Compare the indexes with the ledger, vector by vector, after following its events.

        A deep check searches for every one by its own text, too: that finds flipped bits.
        """
        self.sync()
        return check_index(self._ledger, self._index, self._words, self._embedder if deep else None)

    def drop_unfinished(self) -> int:
        """Drop what killed rebuilds of the index left behind and return their number."""
        drop = getattr(self._index, "drop_unfinished", None)
        return int(drop()) if drop is not None else 0

    def renew(self) -> Renewal | None:
        """Build the vectors anew in the background where the index was built with other settings.

        None where there is no need. Recalls go on with the old ones until it is done; `close` stops it,
        and the next one goes on from there.
        """
        if self._renewal is None and getattr(self._index, "is_outdated", False):
            self._renewal = Renewal(self._projection, self._index, self._progress.say)
        return self._renewal

    def audit(self) -> Audit:
        """Look for copies, unused memories, loops, and an index that lost something."""
        self.sync()
        return audit(
            self._ledger,
            self._embedder,
            merge_above=self.thresholds.merge_above,
            n_vectors=self._index.count(),
        )

    def close(self) -> None:
        """Release the index and the embedder's cache; safe to call twice."""
        self._settling.stop()
        with suppress(AgentkdError):  # what is not followed now is followed by the next one
            if self._words is not None:
                self._projection.sync()
            self._projection.settle()
        with ExitStack() as stack:  # what one of them cannot do leaves no other one open
            stack.callback(getattr(self._embedder, "close", lambda: None))
            if self._words is not None:
                stack.callback(self._words.close)
            stack.callback(self._index.close)
            if self._renewal is not None:
                stack.callback(self._renewal.stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
