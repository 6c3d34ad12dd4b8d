"""MemoryStore: the memories of a workspace behind one object; also its recaller."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from agentkd.config import MemorySettings
from agentkd.errors import PluginError
from agentkd.memory.admission import Admission, admit
from agentkd.memory.audit import Audit, audit
from agentkd.memory.lesson import Lessons
from agentkd.memory.projection import Projection
from agentkd.memory.recall import Search, excluded
from agentkd.memory.refine import Edit
from agentkd.memory.render import render
from agentkd.plugins import Hooks
from agentkd.protocols import Embedder, Index, Kit, Progress, Refiner
from agentkd.schema import Hit, Memory, MemoryStatus, Scope

if TYPE_CHECKING:
    from agentkd.ledger import Ledger

__all__ = ["MemoryStore"]

_EDITABLE = ("active", "quarantined", "retired", "revoked")


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
    ) -> None:
        """Compose a store; it closes the index, not the ledger, when it is closed."""
        self.settings = settings
        self._ledger = ledger
        self._index = index
        self._embedder = embedder
        self._hooks = hooks
        self._projection = Projection(ledger, index, embedder, progress)
        self._search = Search(ledger, index, embedder)
        self._lessons = Lessons(ledger)

    def admit(self, candidates: Iterable[Memory]) -> list[Admission]:
        """Judge, store and index candidates; returns one answer per candidate, in their order."""
        answers = admit(
            candidates,
            ledger=self._ledger,
            lessons=self._lessons,
            embedder=self._embedder,
            hooks=self._hooks,
            merge_above=self.settings.merge_above,
        )
        self.sync()
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
    ) -> list[list[Hit]]:
        """Recall for many states at one time; `exclude` holds one collection of ids per state."""
        seq = self._ledger.memories.last_seq()
        if seq > self._projection.seen:
            self._projection.sync()
        return self._search.find(
            states,
            self.settings.k if k is None else k,
            min_score=self.settings.min_score,
            scope=self.settings.scope if scope is None else scope,
            checkpoint=checkpoint,
            exclude=excluded(states, exclude),
            also=also,
            seq=seq,
        )

    def render(self, hits: Sequence[Hit]) -> str:
        """Return the hits as notes for a prompt, the most similar last; empty for no hits."""
        return render(hits, self.settings.max_rendered_chars)

    def sync(self) -> int:
        """Bring the index up to the ledger and return the number of events followed."""
        return self._projection.sync()

    def rebuild(self) -> int:
        """Make the index anew from the ledger and return the number of events followed."""
        return self._projection.rebuild()

    def refine(self, refiners: Iterable[Refiner], kit: Kit) -> list[Edit]:
        """Let refiners judge all current memories one after the other; returns what changed."""
        edits: list[Edit] = []
        for refiner in refiners:
            memories = {m.id: m for m in self._ledger.memories.list() if m.status != "revoked"}
            proposed = list(refiner.refine(tuple(memories.values()), kit))
            with self._ledger.transaction():
                for memory_id, status, reason in proposed:
                    _check_edit(refiner.name, memory_id, status, memories)
                    why = f"{refiner.name}: {reason}"
                    if self._ledger.memories.set_status(memory_id, status, why):  # type: ignore[arg-type]
                        before = memories[memory_id].status
                        edits.append(Edit(memory_id=memory_id, before=before, status=status, reason=why))
        self.sync()
        return edits

    def set_status(self, memory_id: str, status: MemoryStatus, reason: str, checkpoint: str = "base") -> bool:
        """Set a memory's status where `checkpoint` serves; False when it is so already.

        Raises NotFoundError. Statuses of a checkpoint do not touch the base: after a roll-back the
        memory is as active as before.
        """
        changed = self._ledger.memories.set_status(memory_id, status, reason, checkpoint)
        self.sync()
        return changed

    def revoke(self, memory_id: str, reason: str) -> bool:
        """Take a memory back for good; checkpoints trained on it are marked tainted."""
        return self.set_status(memory_id, "revoked", reason)

    def history(self, memory_id: str) -> list[Memory]:
        """Return all versions of a memory, the first one first; raises NotFoundError."""
        return self._ledger.memories.history(memory_id)

    def audit(self) -> Audit:
        """Look for copies, unused memories, loops, and an index that lost something."""
        self.sync()
        return audit(
            self._ledger,
            self._embedder,
            merge_above=self.settings.merge_above,
            n_vectors=self._index.count(),
        )

    def close(self) -> None:
        """Release the index and the embedder's cache; safe to call twice."""
        self._index.close()
        close = getattr(self._embedder, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_edit(refiner: str, memory_id: str, status: str, known: Collection[str]) -> None:
    if memory_id not in known:
        raise PluginError(f"refiner `{refiner}` edits `{memory_id}`, which it was not given", plugin=refiner)
    if status not in _EDITABLE:
        raise PluginError(
            f"refiner `{refiner}` sets `{memory_id}` to `{status}`",
            hint=f"a refiner sets {', '.join(_EDITABLE)}",
            plugin=refiner,
        )
