"""Heads that prompts share: found, computed once, and kept for the next prompts."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence

from agentkd.models.network import Head, Network

__all__ = ["HeadCache"]

_MIN_TOKENS = 64  # a shorter head is not worth its bookkeeping
_N_RECENT = 32


class HeadCache:
    """The `capacity` most recently used heads of one network.

    A prompt is cut behind its first turn (system message and tool descriptions), or, where the first turns of
    prompts differ, behind what it shares with an earlier prompt. The first rule depends on the prompt alone,
    so the arithmetic of a reply does not change with the order in which requests arrive.
    """

    def __init__(self, network: Network, end_ids: frozenset[int], capacity: int) -> None:
        self._network = network
        self._end_ids = end_ids
        self._capacity = capacity
        self._heads: OrderedDict[tuple[str, tuple[int, ...]], Head] = OrderedDict()
        self._recent: deque[Sequence[int]] = deque(maxlen=_N_RECENT)

    def find(self, ids: Sequence[int], adapter: str) -> tuple[Head | None, bool]:
        """Return the head to continue from and whether it was there already; None for a short prompt."""
        if self._capacity < 1:
            return None, False
        known = [key for key in self._heads if key[0] == adapter and _begins(ids, key[1])]
        if known:
            best = max(known, key=lambda key: len(key[1]))
            self._heads.move_to_end(best)
            return self._heads[best], True
        cut = self._cut(ids)
        self._recent.append(tuple(ids))
        if cut < _MIN_TOKENS:
            return None, False
        head = self._network.head(ids[:cut])
        self._heads[adapter, head.ids] = head
        while len(self._heads) > self._capacity:
            self._heads.popitem(last=False)
        return head, False

    def clear(self) -> None:
        """Forget all heads."""
        self._heads.clear()

    def _cut(self, ids: Sequence[int]) -> int:
        first_turn = next((i + 1 for i, token in enumerate(ids) if token in self._end_ids), 0)
        shared = max((_n_shared(ids, other) for other in self._recent), default=0)
        cut = first_turn if shared < _MIN_TOKENS else min(first_turn or shared, shared)
        return min(cut, len(ids) - 1)


def _begins(ids: Sequence[int], head: tuple[int, ...]) -> bool:
    return len(head) < len(ids) and tuple(ids[: len(head)]) == head


def _n_shared(a: Sequence[int], b: Sequence[int]) -> int:
    for i, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return i
    return min(len(a), len(b))
