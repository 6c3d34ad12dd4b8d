"""Keeps near duplicates together and some groups back: a split by group, never by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from agentkd.schema import Task, content_id

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["TaskKey", "choose_dev", "group_tasks", "task_key"]

TaskKey = tuple[str, str]
"""Suite and id of a task."""

_BLOCK = 1024  # rows of the similarity matrix that exist at one time


def task_key(task: Task) -> TaskKey:
    """Return what makes a task unique."""
    return task.suite, task.id


def group_tasks(
    tasks: Sequence[Task],
    embed: Callable[[Sequence[str]], NDArray[np.float32]],
    near_duplicate: float,
) -> dict[TaskKey, str]:
    """Return the group of each task.

    Tasks share a group where a chain of equal `Task.group`s, equal requests or requests with a cosine
    similarity above `near_duplicate` leads from one to the other. Names depend on the tasks alone.
    """
    unique = sorted({task_key(task): task for task in tasks}.items())
    forest = _Forest(len(unique))
    declared: dict[tuple[str, str], int] = {}
    worded: dict[str, int] = {}
    for index, ((suite, _), task) in enumerate(unique):
        if task.group:
            forest.join(index, declared.setdefault((suite, task.group), index))
        forest.join(index, worded.setdefault(_plain(task.prompt), index))
    firsts = sorted(worded.values())
    for one, other in _similar(embed([unique[i][1].prompt for i in firsts]), near_duplicate):
        forest.join(firsts[one], firsts[other])
    names = {root: content_id("grp", *unique[root][0]) for root in map(forest.root, range(len(unique)))}
    return {key: names[forest.root(index)] for index, (key, _) in enumerate(unique)}


def choose_dev(rows_per_group: Mapping[str, int], share: float) -> frozenset[str]:
    """Return whole groups that hold about `share` of the rows, never more, chosen by hash."""
    room = round(share * sum(rows_per_group.values()))
    chosen = set()
    for group in sorted(rows_per_group, key=lambda name: content_id("dev", name)):
        if rows_per_group[group] <= room:
            chosen.add(group)
            room -= rows_per_group[group]
    return frozenset(chosen)


def _plain(prompt: str) -> str:
    return " ".join(prompt.casefold().split())


def _similar(vectors: NDArray[np.float32], threshold: float) -> Iterator[tuple[int, int]]:
    """Yield pairs of rows whose cosine similarity is above `threshold`; `vectors` are unit, `[n, d]`."""
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK] @ vectors.T
        for one, other in zip(*(block > threshold).nonzero(), strict=True):
            if start + one < other:
                yield start + int(one), int(other)


class _Forest:
    """Union-find in which the smallest index is the root."""

    def __init__(self, n: int) -> None:
        self._parents = list(range(n))

    def root(self, index: int) -> int:
        while self._parents[index] != index:
            self._parents[index] = self._parents[self._parents[index]]
            index = self._parents[index]
        return index

    def join(self, one: int, other: int) -> None:
        low, high = sorted((self.root(one), self.root(other)))
        self._parents[high] = low
