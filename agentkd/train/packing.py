"""Packing: rows become steps, and the rows of a step become packs without padding or repeated prefixes.

A pack is one sequence for every layer that works token by token. Rows that begin alike (the chat
template's head, a system prompt, the earlier turns of a trajectory) share those tokens: they are computed
once, which is exact because a causal model's state depends on the tokens before it alone. Attention alone
needs whole rows back; `Pack.groups` says where their tokens lie.
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from agentkd.train.rows import View

__all__ = ["BLOCK", "MAX_PAIRS", "Pack", "deal", "make_packs", "plan_steps"]

BLOCK = 256
"""Queries that attend together where attention keeps its scores."""
MAX_PAIRS = 1 << 21
"""Query-key pairs of one pack on a CPU: bounds the memory of attention where it keeps its scores."""


def plan_steps(
    sizes: Sequence[int], *, epochs: float, tokens_per_step: int, seed: int
) -> tuple[tuple[int, ...], ...]:
    """Return the rows of every optimiser step: each epoch a fresh shuffle, steps of equal size.

    Args:
        sizes: Tokens of each row.
        epochs: Passes over the rows; a part of a pass takes the first rows of its shuffle.
        tokens_per_step: Wanted tokens per step; the true mean differs so that no small step is left over.
        seed: Seed of the shuffles; the same arguments give the same plan.
    """
    n_visits = max(1, round(epochs * len(sizes)))
    visits: list[int] = []
    for epoch in range(math.ceil(n_visits / len(sizes))):
        order = list(range(len(sizes)))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        visits += order
    visits = visits[:n_visits]
    total = sum(sizes[row] for row in visits)
    n_steps = max(1, round(total / tokens_per_step))
    steps: list[list[int]] = [[] for _ in range(n_steps)]
    seen = 0
    for row in visits:
        middle = seen + sizes[row] / 2  # the step that holds the middle of a row gets the row
        steps[min(n_steps - 1, int(middle * n_steps / total))].append(row)
        seen += sizes[row]
    return tuple(tuple(step) for step in steps if step)


def deal(items: Sequence[Sequence[View]], n: int) -> list[list[int]]:
    """Deal items out to `n` processes, the longest first, each to where the least is to compute with it.

    What an item shares with one that a process has already is not computed there again. Returns the numbers
    of the items of each process, ascending; an item's views stay together.
    """
    if n == 1:
        return [list(range(len(items)))]
    order = sorted(range(len(items)), key=lambda i: (-sum(view.n_tokens for view in items[i]), i))
    held: list[list[tuple[int, ...]]] = [[] for _ in range(n)]
    dealt: list[list[int]] = [[] for _ in range(n)]
    loads = [0] * n
    for number in order:
        rows = sorted(view.ids[:-1] for view in items[number])
        sums = [load + _n_new(rows, others) for load, others in zip(loads, held, strict=True)]
        best = sums.index(min(sums))
        loads[best] = sums[best]
        dealt[best].append(number)
        for row in rows:
            bisect.insort(held[best], row)
    return [sorted(numbers) for numbers in dealt]


def _n_new(rows: Sequence[tuple[int, ...]], others: Sequence[tuple[int, ...]]) -> int:
    """Return the tokens that sorted rows add to sorted others: of those the neighbours share most."""
    n = 0
    previous: tuple[int, ...] = ()
    for row in rows:
        place = bisect.bisect(others, row)
        near = [previous, *others[max(0, place - 1) : place + 1]]
        n += len(row) - max(_n_shared(row, other) for other in near)
        previous = row
    return n


@dataclass
class Pack:
    """Rows in one sequence. Axes: `t` packed tokens, `n` labels of all rows."""

    tokens: list[int] = field(default_factory=list)
    """Token ids, `[t]`; tokens that rows share appear once."""
    positions: list[int] = field(default_factory=list)
    """Position of each token in its row, `[t]`."""
    paths: list[list[int]] = field(default_factory=list)
    """For each row, where its input tokens lie in the pack."""
    sources: list[int] = field(default_factory=list)
    """For each label, the packed token whose state predicts it, `[n]`."""
    targets: list[int] = field(default_factory=list)
    """For each label, the token id to predict, `[n]`."""
    weights: list[float] = field(default_factory=list)
    """For each label, its loss weight, `[n]`."""
    labels: list[tuple[int, int]] = field(default_factory=list)
    """For each label, (number of its view as given, its place among the labels of that view)."""
    n_pairs: int = 0
    """Query-key pairs that attention in blocks computes, about."""

    def add(self, number: int, view: View, path: list[int], n_shared: int) -> None:
        """Append a row whose first `n_shared` input tokens lie at `path` already."""
        path = path[:n_shared]
        for position in range(n_shared, len(view.ids) - 1):
            path.append(len(self.tokens))
            self.tokens.append(view.ids[position])
            self.positions.append(position)
        self.paths.append(path)
        for place, (label, weight) in enumerate(zip(view.labels, view.weights, strict=True)):
            self.sources.append(path[label - 1])
            self.targets.append(view.ids[label])
            self.weights.append(weight)
            self.labels.append((number, place))

    def groups(self) -> Iterator[list[list[int]]]:
        """Yield the paths in groups of similar length (a shorter row has at least half of the longest)."""
        group: list[list[int]] = []
        for path in sorted(self.paths, key=len, reverse=True):
            if group and 2 * len(path) < len(group[0]):
                yield group
                group = []
            group.append(path)
        if group:
            yield group


def make_packs(
    views: Sequence[View],
    max_tokens: int,
    max_pairs: int = MAX_PAIRS,
    together: Sequence[Sequence[int]] = (),
) -> Iterator[Pack]:
    """Pack rows so that no pack computes more than `max_tokens` or `max_pairs` query-key pairs.

    Views whose numbers stand in one group of `together` come into one pack. A group, or a row by itself,
    that is larger is alone in its pack.
    """
    pack = Pack()
    previous: tuple[int, ...] = ()
    for unit in _units(views, together):
        n_new, new_pairs = _cost(views, unit, previous if pack.paths else ())
        if pack.paths and (len(pack.tokens) + n_new > max_tokens or pack.n_pairs + new_pairs > max_pairs):
            yield pack
            pack = Pack()
            new_pairs = _cost(views, unit, ())[1]
        for number in unit:
            inputs = views[number].ids[:-1]
            n_shared = _n_shared(previous, inputs) if pack.paths else 0
            pack.add(number, views[number], pack.paths[-1] if n_shared else [], n_shared)
            previous = inputs
        pack.n_pairs += new_pairs
    if pack.paths:
        yield pack


def _units(views: Sequence[View], together: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return what is packed as a whole, sorted so that rows that begin alike are neighbours."""
    bound = {number for group in together for number in group}
    units = [sorted(group, key=lambda i: views[i].ids) for group in together if group]
    units += [[number] for number in range(len(views)) if number not in bound]
    return sorted(units, key=lambda unit: (views[unit[0]].ids, unit[0]))


def _cost(views: Sequence[View], unit: Sequence[int], previous: tuple[int, ...]) -> tuple[int, int]:
    """Return the tokens and the query-key pairs that a unit adds behind `previous`."""
    n_new = n_pairs = 0
    for number in unit:
        inputs = views[number].ids[:-1]
        n_shared = _n_shared(previous, inputs)
        n_own = len(inputs) - n_shared
        n_new += n_own
        n_pairs += n_own * (n_shared + min(n_own, (n_own + BLOCK) // 2))
        previous = inputs
    return n_new, n_pairs


def _n_shared(first: Sequence[int], second: Sequence[int]) -> int:
    n = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        n += 1
    return n
