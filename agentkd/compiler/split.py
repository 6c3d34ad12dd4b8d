"""Keeps near duplicates together and some groups back: a split by group, never by row."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from agentkd.compiler.neighbour import like_pairs
from agentkd.schema import Task, content_id

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Forest", "TaskGroups", "TaskKey", "choose_dev", "group_tasks", "task_key"]

TaskKey = tuple[str, str]
"""Suite and id of a task."""

_BATCH = 512  # requests that are embedded at one time


def task_key(task: Task) -> TaskKey:
    """Return what makes a task unique."""
    return sys.intern(task.suite), task.id


class TaskGroups:
    """Tasks as they come, told apart by near duplicates; only hashes and vectors of requests are kept."""

    def __init__(self, embed: Callable[[Sequence[str]], NDArray[np.float32]], near_duplicate: float) -> None:
        self._embed = embed
        self._near_duplicate = near_duplicate
        self._keys: list[TaskKey] = []
        self._declared: dict[bytes, int] = {}
        self._named: dict[bytes, int] = {}
        self._worded: dict[bytes, int] = {}
        self._joins: list[tuple[int, int]] = []
        self._prompts: list[str] = []
        self._vectors: list[NDArray[np.float16]] = []

    def add(self, task: Task, key: TaskKey, like: Sequence[TaskKey] = ()) -> None:
        """Take a task; each is given once. It stays together with the tasks in `like`, whenever they come."""
        index = len(self._keys)
        self._keys.append(key)
        for name in (key, *like):
            self._joins.append((index, self._named.setdefault(_digest("task", *name), index)))
        if task.group:
            self._joins.append((index, self._declared.setdefault(_digest(task.suite, task.group), index)))
        first = self._worded.setdefault(_digest(_plain(task.prompt)), index)
        self._joins.append((index, first))
        if first == index:
            self._prompts.append(task.prompt)
            if len(self._prompts) >= _BATCH:
                self._flush()

    def finish(self) -> dict[TaskKey, str]:
        """Return the group of each task; names depend on the tasks alone, not on their order."""
        import numpy as np

        self._flush()
        forest = Forest(len(self._keys))
        for one, other in self._joins:
            forest.join(one, other)
        firsts = sorted(self._worded.values())
        if firsts:
            vectors = np.concatenate(self._vectors)
            self._vectors = []
            for one, other in like_pairs(
                vectors, self._near_duplicate, lambda a, b: forest.is_joined(firsts[a], firsts[b])
            ):
                forest.join(firsts[one], firsts[other])
        smallest: dict[int, TaskKey] = {}
        for index, key in enumerate(self._keys):
            root = forest.root(index)
            smallest[root] = min(smallest.get(root, key), key)
        names = {root: content_id("grp", *key) for root, key in smallest.items()}
        return {key: names[forest.root(index)] for index, key in enumerate(self._keys)}

    def _flush(self) -> None:
        import numpy as np

        if self._prompts:
            self._vectors.append(self._embed(self._prompts).astype(np.float16))
            self._prompts = []


def group_tasks(
    tasks: Sequence[Task],
    embed: Callable[[Sequence[str]], NDArray[np.float32]],
    near_duplicate: float,
) -> dict[TaskKey, str]:
    """Return the group of each task.

    Tasks share a group where a chain of equal `Task.group`s, equal requests or requests with a cosine
    similarity above `near_duplicate` leads from one to the other. Names depend on the tasks alone.
    """
    groups = TaskGroups(embed, near_duplicate)
    for key, task in sorted({task_key(task): task for task in tasks}.items()):
        groups.add(task, key)
    return groups.finish()


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


def _digest(*texts: str) -> bytes:
    return hashlib.sha256("\0".join(texts).encode(errors="surrogatepass")).digest()[:16]


class Forest:
    """Union-find in which the smallest index is the root."""

    def __init__(self, n: int) -> None:
        self._parents = list(range(n))

    def root(self, index: int) -> int:
        """Return what stands for everything that an index is joined with."""
        while self._parents[index] != index:
            self._parents[index] = self._parents[self._parents[index]]
            index = self._parents[index]
        return index

    def is_joined(self, one: int, other: int) -> bool:
        """Whether a chain of joins leads from one to the other."""
        return self.root(one) == self.root(other)

    def join(self, one: int, other: int) -> None:
        """Put two indices, and all that they are joined with, together."""
        low, high = sorted((self.root(one), self.root(other)))
        self._parents[high] = low
