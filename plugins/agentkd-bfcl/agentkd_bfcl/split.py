"""Deterministic splits in which near copies stay together.

Two requests are near copies when their word sets overlap: Jaccard >= 0.55 over all words, or >= 0.70
over the words that carry meaning, numbers folded to one token. Over the 733 requests for the 26 tools
this finds every pair that MiniLM puts above a cosine of 0.95. Copies of copies join one group.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agentkd.errors import ConfigError
from agentkd_bfcl.data import Row

__all__ = ["Splits", "group_near_copies", "normalise", "split_groups"]

ALL_WORDS_OVERLAP = 0.55
MEANING_OVERLAP = 0.70

MAX_HELD_GROUP = 3
"""Larger groups go to training: held out, one request with its copies would count many times."""

_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        """0 a an and any are at be can could d do find for get give hello help hey hi i in is it like ll
        locate looking m me my need of on or please re s search show some tell that the there this to
        want what with would you""",
    )
)


@dataclass(frozen=True)
class Splits:
    """Row positions per split."""

    train: tuple[int, ...]
    """Positions to learn from."""
    dev: tuple[int, ...]
    """Part of `train` kept aside for tuning."""
    holdout: tuple[int, ...]
    """Positions that decide."""


def normalise(text: str) -> list[str]:
    """Return lower-case words without punctuation, every number as `0`."""
    return re.sub(r"\d+", "0", re.sub(r"[^\w\s]|_", " ", text.lower())).split()


def group_near_copies(texts: Sequence[str]) -> list[int]:
    """Return a group per text: the position of the first text that it is a near copy of, or its own."""
    words = [frozenset(normalise(text)) for text in texts]
    meaning = [frozenset(_singular(w) for w in each if w not in _STOP_WORDS) or each for each in words]
    near = (_jaccard(words) >= ALL_WORDS_OVERLAP) | (_jaccard(meaning) >= MEANING_OVERLAP)
    parent = list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in np.argwhere(np.triu(near, k=1)):
        a, b = root(int(i)), root(int(j))
        parent[max(a, b)] = min(a, b)
    return [root(i) for i in range(len(texts))]


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") else word


def _jaccard(sets: Sequence[frozenset[str]]) -> NDArray[np.float64]:
    """Return the overlap of every pair of sets, `[n, n]`."""
    column = {word: i for i, word in enumerate(sorted(frozenset().union(*sets)))}
    has = np.zeros((len(sets), max(len(column), 1)), dtype=np.float32)
    for row, words in enumerate(sets):
        has[row, [column[word] for word in words]] = 1.0
    shared = (has @ has.T).astype(np.float64)
    sizes = has.sum(axis=1, dtype=np.float64)
    union = sizes[:, None] + sizes[None, :] - shared
    overlap: NDArray[np.float64] = np.divide(shared, union, out=np.ones_like(shared), where=union > 0)
    return overlap


def split_groups(
    rows: Sequence[Row], groups: Sequence[int], *, n_train: int, n_holdout: int, dev_share: float, seed: int
) -> Splits:
    """Deal whole groups into splits, every tool in its share.

    The holdout takes rows of `live_multiple` alone; training takes what is left, `live_multiple` first.

    Raises:
        ConfigError: there are too few rows for what is asked.
    """
    members = defaultdict(list)
    for position, group in enumerate(groups):
        members[group].append(position)
    dealt = sorted(members)
    random.Random(seed).shuffle(dealt)
    held = _deal(rows, [members[g] for g in dealt if _may_be_held(rows, members[g])], n_holdout)
    rest = [i for i in range(len(rows)) if i not in held]
    rest.sort(key=lambda i: rows[i].category != "live_multiple")  # stable: file order within a category
    train = sorted(rest[:n_train])
    if len(held) < n_holdout or len(train) < n_train:
        raise ConfigError(
            f"there are {len(rows)} requests, too few for {n_train} to learn from and {n_holdout} held out",
            hint="lower `train` or `holdout` in `[suite.bfcl-live]`",
        )
    chosen = set(train)
    inner = [[i for i in members[g] if i in chosen] for g in dealt]
    dev = _deal(rows, [group for group in inner if group], round(dev_share * n_train))
    return Splits(tuple(train), tuple(sorted(dev)), tuple(sorted(held)))


def _may_be_held(rows: Sequence[Row], group: Sequence[int]) -> bool:
    return len(group) <= MAX_HELD_GROUP and all(rows[i].category == "live_multiple" for i in group)


def _deal(rows: Sequence[Row], groups: Sequence[Sequence[int]], n: int) -> set[int]:
    """Take whole groups in order until `n` rows are taken; no tool gives more than its share."""
    available = Counter(rows[i].tool for group in groups for i in group)
    share = n / max(sum(available.values()), 1)
    quota = {tool: share * count + 1 for tool, count in available.items()}
    taken: set[int] = set()
    counts: Counter[str] = Counter()
    for is_strict in (True, False):  # the second pass fills up what rounding left open
        for group in groups:
            if taken.isdisjoint(group) and len(taken) + len(group) <= n:
                wanted = counts + Counter(rows[i].tool for i in group)
                if not is_strict or all(wanted[tool] <= quota[tool] for tool in wanted):
                    taken.update(group)
                    counts = wanted
    return taken
