"""Contamination: evaluation tasks whose text stands in the rows that a candidate was trained on.

A task is compared with every message of every row. Copies are found word by word; disguised ones by the
share of the task's character 5-grams that a message holds, where a gram counts the more the fewer tasks
and messages have it: a phrase that all share says nothing, a name or a number that one has says much. The
tasks of an evaluation are few, so an inverted index over their grams is exact; rows are read twice, one at a
time. MinHash would estimate the Jaccard similarity of both texts, which is small for a short task inside a
long message however whole the copy is: of real requests inside other text it finds 29 %, this all
(`benchmarks/gate.py`).
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from agentkd.schema import Value

__all__ = ["NEAR", "Contamination", "Leak", "find_leaks"]

NEAR = 0.6
"""Share of a task's weighted grams from which a row counts as a disguised copy."""

_GRAM = 5
_SHORTEST = 6  # characters: of less than that no copy can be told from chance
_WHOLE = 20  # characters: shorter tasks may stand in other texts by chance
_COMMON = 0.5  # grams that more texts than this share have are not looked up
_FEW = 8  # of fewer texts than this no gram is common

Rows = Iterable[tuple[str, Iterable[str]]]


class Leak(NamedTuple):
    """One task that a training row gives away."""

    task_id: str
    """The task."""
    row_id: str
    """The row that is most like it."""
    share: float
    """Weighted share of the task's grams in one message of the row, in [0, 1]; 1 for a copy."""
    is_exact: bool
    """Whether the message is the task, or holds all of it, but for case and punctuation."""


class Contamination(Value):
    """What was found among the tasks of a split."""

    n_tasks: int
    """Tasks that were looked for."""
    n_rows: int
    """Rows that were read."""
    leaks: tuple[Leak, ...] = ()
    """Tasks that were found, by id."""
    n_short: int = 0
    """Tasks of so few letters that no copy could be told from chance; they were not looked for."""

    @property
    def tasks(self) -> frozenset[str]:
        """Ids of the tasks that no figure may rest on."""
        return frozenset(leak.task_id for leak in self.leaks)

    @property
    def n_exact(self) -> int:
        """Tasks of which a row holds a copy."""
        return sum(leak.is_exact for leak in self.leaks)


def find_leaks(
    tasks: Mapping[str, str], rows: Callable[[], Rows], *, near: float = NEAR, background: Iterable[str] = ()
) -> Contamination:
    """Look for every task in every row.

    Args:
        tasks: Text of each evaluation task by its id.
        rows: Gives, each time it is called, the id of every training row and the texts of its messages.
        near: Weighted share of grams from which a message counts as a disguised copy.
        background: Texts that only tell which phrases are common; nothing is looked for in them.
    """
    index, n_rows = _Index(tasks), 0

    def counted() -> Rows:
        nonlocal n_rows
        for row in rows():
            n_rows += 1
            yield row

    for _, plain in _distinct(counted()):
        index.count(plain)
    for text in background:
        index.count(_plain(text))
    index.weigh()
    found: dict[str, Leak] = {}
    for row_id, plain in _distinct(rows()):
        for task_id, share, is_exact in index.shares(plain):
            held = found.get(task_id)
            if (is_exact or share >= near) and (held is None or (is_exact, share) > (held[3], held[2])):
                found[task_id] = Leak(task_id, row_id, min(share, 1.0), is_exact)
    leaks = tuple(sorted(found.values()))
    return Contamination(n_tasks=len(tasks), n_rows=n_rows, leaks=leaks, n_short=len(tasks) - index.n_tasks)


def _distinct(rows: Rows) -> Iterator[tuple[str, str]]:
    """Yield each text once, with the first row that has it: rows of one trajectory repeat its messages."""
    seen: set[bytes] = set()
    for row_id, texts in rows:
        for text in texts:
            plain = _plain(text)
            digest = hashlib.blake2b(plain.encode(errors="surrogatepass"), digest_size=16).digest()
            if digest not in seen:
                seen.add(digest)
                yield row_id, plain


class _Index:
    """The tasks' grams, each with its weight and the tasks that have it."""

    def __init__(self, tasks: Mapping[str, str]) -> None:
        plain = {id_: _plain(text) for id_, text in tasks.items()}
        plain = {id_: text for id_, text in plain.items() if len(text) >= _SHORTEST}
        self._plain = plain
        self._exact: dict[str, list[str]] = defaultdict(list)
        for id_, text in plain.items():
            self._exact[text].append(id_)
        self._own = {id_: _grams(text) for id_, text in plain.items()}
        self._counts = Counter(gram for own in self._own.values() for gram in own)
        self.n_tasks = self._n_texts = len(plain)
        self._weight: dict[str, float] = {}
        self._total: dict[str, float] = {}
        self._owners: dict[str, list[str]] = defaultdict(list)

    def count(self, text: str) -> None:
        """Take note of which grams a text of the training rows has."""
        self._n_texts += 1
        for gram in _grams(text):
            if gram in self._counts:
                self._counts[gram] += 1

    def weigh(self) -> None:
        """Weigh the grams, after all texts were counted."""
        n = self._n_texts
        self._weight = {gram: math.log((1 + n) / (0.5 + count)) for gram, count in self._counts.items()}
        self._total = {id_: sum(self._weight[gram] for gram in own) for id_, own in self._own.items()}
        for id_, own in self._own.items():
            for gram in own:
                if n <= _FEW or self._counts[gram] <= _COMMON * n:
                    self._owners[gram].append(id_)

    def shares(self, text: str) -> Iterable[tuple[str, float, bool]]:
        """Yield (task, weighted share of its grams in the text, whether it is a copy)."""
        sums: dict[str, float] = defaultdict(float)
        for gram in _grams(text):
            weight = self._weight.get(gram, 0.0)
            for id_ in self._owners.get(gram, ()):
                sums[id_] += weight
        copies = set(self._exact.get(text, ()))
        likely = [id_ for id_, held in sums.items() if held >= _COMMON * self._total[id_]]
        copies |= {id_ for id_ in likely if self._is_inside(id_, text)}
        for id_ in copies | sums.keys():
            share = 1.0 if id_ in copies else sums[id_] / self._total[id_] if self._total[id_] else 0.0
            yield id_, share, id_ in copies

    def _is_inside(self, id_: str, text: str) -> bool:
        """Whether a text holds a whole task word for word among other words."""
        plain = self._plain[id_]
        return _WHOLE <= len(plain) < len(text) and f" {plain} " in f" {text} "


def _plain(text: str) -> str:
    """Return the words of a text in lower case, with single blanks between them."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", folded))


def _grams(plain: str) -> set[str]:
    padded = f" {plain} "
    return {padded[start : start + _GRAM] for start in range(len(padded) - _GRAM + 1)}
