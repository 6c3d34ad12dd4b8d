"""Requests of several adapters in turn are decoded in batches, and the oldest one is never forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from agentkd.models.batcher import Batcher
from agentkd.models.decode import Job, Output


class Rows:
    """A decoder that notes the order of its jobs; each takes three steps."""

    def __init__(self, max_rows: int = 8) -> None:
        self.order: list[str] = []
        self._max_rows = max_rows
        self._open: dict[int, tuple[Job, int]] = {}

    def has_room_for(self, job: Job) -> bool:
        adapters = {other.adapter for other, _ in self._open.values()}
        return len(self._open) < self._max_rows and adapters <= {job.adapter}

    def admit(self, job: Job) -> None:
        assert self.has_room_for(job)
        self.order.append(job.adapter)
        self._open[id(job)] = (job, 3)

    def step(self) -> Sequence[tuple[Job, Any]]:
        self._open = {key: (job, left - 1) for key, (job, left) in self._open.items()}
        done = [job for job, left in self._open.values() if not left]
        for job in done:
            del self._open[id(job)]
        return [(job, Output(reason="stop")) for job in done]

    def reset(self) -> None:
        self._open.clear()


def test_requests_of_two_adapters_in_turn_fill_batches() -> None:
    decoder = Rows()
    batcher = Batcher([decoder])  # type: ignore[list-item]
    futures = [batcher.submit(Job((1,), adapter="ab"[number % 2])) for number in range(64)]
    for future in futures:
        future.result(timeout=20)
    assert sorted(decoder.order) == ["a"] * 32 + ["b"] * 32
    assert sum(first != second for first, second in pairwise(decoder.order)) < 8


def test_the_oldest_request_waits_for_a_bounded_number_of_younger_ones() -> None:
    decoder = Rows()
    batcher = Batcher([decoder])  # type: ignore[list-item]
    adapters = ["a"] * 4 + ["b"] + ["a"] * 300
    futures = [batcher.submit(Job((1,), adapter=adapter)) for adapter in adapters]
    for future in futures:
        future.result(timeout=20)
    assert decoder.order.index("b") <= 4 + 64
