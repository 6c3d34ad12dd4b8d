"""AgentkdStore: LangGraph's `BaseStore` over our memory; every item is a fact with a history.

It behaves as LangGraph's own stores do, and besides: an item is a memory of kind `fact` in the scope of its
namespace, so that agents recall it, `agentkd memory history` shows what it replaced, and a revoked one is
gone here too. Where it differs:

* secrets are redacted before storage, so a value comes back redacted; namespaces and keys stay as they are;
* a value is strict JSON: no NaN, no infinity, no key that is not a string; tuples come back as lists;
* `created_at` is the first put of a key; putting the same value again only moves `updated_at`;
* an expired item is gone at once, and so is its memory as soon as the store is used again;
* deleting takes an item out of store and recall; the ledger's history keeps what it was.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    tokenize_path,
    validate_op_namespace,
)

from agentkd.errors import DataError
from agentkd.graph.filter import check_filter, matches
from agentkd.graph.host import Host, check_host
from agentkd.graph.item import plain_value, texts_of
from agentkd.graph.namespace import check_text
from agentkd.ledger.item import StoredItem
from agentkd.memory.item import admitted_item, item_name, scope_of, space_of
from agentkd.schema import Memory, Scope, now

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["AgentkdStore"]

_MOST = 1 << 31  # items that a search may skip or return: a database knows no larger numbers than 64 bits
_MOST_MINUTES = 100 * 366 * 24 * 60.0  # an item that lives longer needs no time to live
_KEPT_VECTORS = 50_000  # items whose vectors stay in memory: 77 MB of MiniLM


class AgentkdStore(BaseStore):
    """Durable items over the ledger of a workspace; safe to use from several threads and processes."""

    supports_ttl = True

    def __init__(
        self,
        workspace: Host,
        *,
        fields: Sequence[str] = ("$",),
        ttl: TTLConfig | None = None,
        clock: Callable[[], datetime] = now,
    ) -> None:
        """Open the store of a workspace's `[memory] scope`; nothing is built before it is used.

        Args:
            workspace: An `agentkd.Workspace`, or what has its `ledger`, `memory`, `hooks` and `settings`.
            fields: Paths whose texts a search compares, as LangGraph's `IndexConfig` names them.
            ttl: Default time to live, and whether reading renews it.
            clock: What time it is.
        """
        check_host(workspace)
        self.ttl_config = ttl
        self._host = workspace
        self._fields = tuple(fields)
        self._clock = clock
        self._base = workspace.settings.memory.scope
        self._space = space_of(self._base)
        self._vectors: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    def scope(self, namespace: tuple[str, ...]) -> Scope:
        """Return the scope that sees what is put into a namespace: for `recall` and `recall_node`."""
        return scope_of(namespace, self._base)

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Carry out operations: all reads first, then all writes in one transaction, the last put wins.

        Raises DataError for a bad value, filter or refused item; then nothing of the batch is written.
        """
        batch = list(ops)
        for op in batch:
            validate_op_namespace(op)
            _check_names(op)
        puts: dict[tuple[tuple[str, ...], str], PutOp] = {}
        results: list[Result] = []
        for op in batch:
            if isinstance(op, PutOp):
                puts[(op.namespace, op.key)] = op
            results.append(self._read(op))
        if puts:
            self._write(list(puts.values()))
        return results

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Do the same without blocking the event loop."""
        return await asyncio.to_thread(self.batch, list(ops))

    def sweep_ttl(self) -> int:
        """Take expired items away, their memories too, and return their number; every put does so."""
        return self._host.ledger.items.drop_expired(self._clock(), self._space)

    def _read(self, op: Op) -> Result:
        if isinstance(op, GetOp):
            return self._get(op)
        if isinstance(op, SearchOp):
            return self._search(op)
        if isinstance(op, ListNamespacesOp):
            return self._list(op)
        if isinstance(op, PutOp):
            return None
        raise DataError(f"a store knows no operation `{type(op).__name__}`")

    def _get(self, op: GetOp) -> Item | None:
        found = self._host.ledger.items.get(self._space, op.namespace, op.key, self._clock())
        if found is None:
            return None
        self._renew([found], op.refresh_ttl)
        return Item(
            value=found.extras["value"],
            key=found.key,
            namespace=found.namespace,
            created_at=found.created_at,
            updated_at=found.updated_at,
        )

    def _search(self, op: SearchOp) -> list[SearchItem]:
        check_filter(op.filter)
        if op.limit < 1:
            return []
        op = op._replace(limit=min(op.limit, _MOST))
        items, start, moment = self._host.ledger.items, min(max(op.offset, 0), _MOST), self._clock()
        if op.query:
            found = self._nearest(op, start, moment)
        elif op.filter:
            fit = [i for i in items.under(self._space, op.namespace_prefix, moment) if _fits(i, op)]
            found = [(i, None) for i in fit[start : start + op.limit]]
        else:
            page = items.under(self._space, op.namespace_prefix, moment, limit=op.limit, offset=start)
            found = [(i, None) for i in page]
        self._renew([item for item, _ in found], op.refresh_ttl)
        return [_hit(item, score) for item, score in found]

    def _nearest(self, op: SearchOp, start: int, moment: datetime) -> list[tuple[StoredItem, float | None]]:
        """Rank by the best of each item's texts; items without one follow, unscored."""
        items = self._host.ledger.items
        if op.filter:
            fit = [i for i in items.under(self._space, op.namespace_prefix, moment) if _fits(i, op)]
            ids = [i.memory_id for i in fit]
        else:
            ids = items.ids_under(self._space, op.namespace_prefix, moment)
        if not ids:
            return []
        vectors = self._vectors_of(ids, moment)
        query = self._host.memory.embedder.embed([op.query or ""])[0]
        scored = [id_ for id_ in ids if len(vectors[id_])]
        scores = _best_scores(query, [vectors[id_] for id_ in scored])
        order = sorted(range(len(scored)), key=lambda at: -scores[at])
        ranked: list[tuple[str, float | None]] = [(scored[at], scores[at]) for at in order]
        ranked += [(id_, None) for id_ in ids if not len(vectors[id_])]
        page = dict(ranked[start : start + op.limit])
        return [(item, page[item.memory_id]) for item in items.holding(self._space, page, moment)]

    def _vectors_of(self, ids: Sequence[str], moment: datetime) -> dict[str, NDArray[np.float32]]:
        """Return `[texts, dimensions]` per memory; a memory never changes, so they are kept."""
        with self._lock:
            found = {id_: self._vectors[id_] for id_ in ids if id_ in self._vectors}
        missing = self._host.ledger.items.holding(self._space, [i for i in ids if i not in found], moment)
        texts = {
            i.memory_id: texts_of(i.extras["value"], i.extras.get("index"), self._fields) for i in missing
        }
        flat = [text for per_item in texts.values() for text in per_item]
        embedded = self._host.memory.embedder.embed(flat) if flat else np.zeros((0, 1), np.float32)
        at = 0
        for id_, per_item in texts.items():
            found[id_] = embedded[at : at + len(per_item)]
            at += len(per_item)
        with self._lock:
            self._vectors.update({id_: found[id_] for id_ in texts})
            surplus = len(self._vectors) - _KEPT_VECTORS
            if surplus > 0:  # what the next search needs again stays
                order = [*(i for i in self._vectors if i not in found), *reversed(self._vectors)]
                for id_ in order[:surplus]:
                    del self._vectors[id_]
        empty = np.zeros((0, 1), np.float32)  # an item that another process took away meanwhile
        return {id_: found.get(id_, empty) for id_ in ids}

    def _list(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        found = self._host.ledger.items.namespaces(self._space, self._clock())
        wanted = [n for n in found if all(_is_match(c, n) for c in op.match_conditions or ())]
        if op.max_depth is not None:
            wanted = sorted({namespace[: op.max_depth] for namespace in wanted})
        return wanted[max(op.offset, 0) :][: max(op.limit, 0)]

    def _renew(self, items: Sequence[StoredItem], wanted: bool) -> None:
        if wanted:
            self._host.ledger.items.refresh(self._space, items, self._clock())

    def _write(self, puts: Sequence[PutOp]) -> None:
        ledger, moment = self._host.ledger, self._clock()
        values = [None if op.value is None else plain_value(op.value, _name(op)) for op in puts]
        for op in puts:
            _check_index(op)
        memories = [
            None if value is None else self._admitted(op, value, moment)
            for op, value in zip(puts, values, strict=True)
        ]
        with ledger.transaction():
            ledger.items.drop_expired(moment, self._space)
            for op, memory in zip(puts, memories, strict=True):
                if memory is None:
                    ledger.items.drop(self._space, op.namespace, op.key)
                else:
                    ledger.items.put(self._space, op.namespace, op.key, memory, moment, op.ttl)

    def _admitted(self, op: PutOp, value: dict[str, Any], moment: datetime) -> Memory:
        index = list(op.index) if isinstance(op.index, (list, tuple)) else op.index
        return admitted_item(
            self._host.hooks, op.namespace, op.key, value, base=self._base, index=index, made_at=moment
        )


def _name(op: PutOp) -> str:
    return item_name(op.namespace, op.key)


def _check_names(op: Op) -> None:
    names = [*getattr(op, "namespace", ()), *getattr(op, "namespace_prefix", ()), getattr(op, "key", "")]
    for condition in getattr(op, "match_conditions", None) or ():
        names += condition.path
    for name in names:
        check_text(str(name))


def _check_index(op: PutOp) -> None:
    is_list = isinstance(op.index, (list, tuple)) and all(isinstance(path, str) for path in op.index)
    if op.index not in (None, False) and not is_list:
        raise DataError(f"{_name(op)}: `index` is False or a list of paths, not `{op.index!r}`")
    if op.ttl is not None and not 0 < op.ttl <= _MOST_MINUTES:
        raise DataError(
            f"{_name(op)}: a time to live of {op.ttl} minutes is none",
            hint="give up to a hundred years, or None for an item that stays",
        )
    for path in op.index or ():
        tokenize_path(path)


def _fits(item: StoredItem, op: SearchOp) -> bool:
    return matches(item.extras["value"], op.filter)


def _best_scores(query: NDArray[np.float32], vectors: Sequence[NDArray[np.float32]]) -> list[float]:
    """Return the cosine of each group's best vector; embedders give vectors of length 1 or 0."""
    if not vectors:
        return []
    starts = np.cumsum([0, *(len(group) for group in vectors[:-1])])
    return [float(score) for score in np.maximum.reduceat(np.concatenate(vectors) @ query, starts)]


def _is_match(condition: MatchCondition, namespace: tuple[str, ...]) -> bool:
    path = tuple(condition.path)
    if condition.match_type not in ("prefix", "suffix"):
        raise DataError(f"namespaces are matched by prefix or suffix, not by `{condition.match_type}`")
    if len(namespace) < len(path):
        return False
    part = (
        namespace[: len(path)]
        if condition.match_type == "prefix"
        else namespace[len(namespace) - len(path) :]
    )
    return all(wanted in ("*", label) for wanted, label in zip(path, part, strict=True))


def _hit(item: StoredItem, score: float | None) -> SearchItem:
    return SearchItem(
        namespace=item.namespace,
        key=item.key,
        value=item.extras["value"],
        created_at=item.created_at,
        updated_at=item.updated_at,
        score=score,
    )
