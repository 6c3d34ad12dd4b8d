"""Decode many requests at once: rows join and leave between steps, forced tokens are taken in one stride."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from agentkd.errors import ModelError
from agentkd.models.grammar import Constraint
from agentkd.models.heads import HeadCache
from agentkd.models.network import Network, Piece

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Decoder", "Job", "Output"]

_MAX_CACHED_TOKENS = 96 * 1024  # over all rows, their unused room included


@dataclass(frozen=True)
class Job:
    """One request as the decoder sees it."""

    prompt: tuple[int, ...]
    """Token ids of the prompt."""
    max_new_tokens: int = 128
    """Longest completion."""
    constraint: Constraint | None = None
    """What the completion may be; None leaves it free."""
    temperature: float = 0.0
    """0 takes the most likely token."""
    top_p: float = 1.0
    """Share of the probability that is drawn from."""
    seed: int | None = None
    """Seed of the draw; None draws anew each time."""
    adapter: str = ""
    """Adapter to decode with; empty is the base."""
    adapter_folder: Path | None = None
    """Where the adapter lies."""


@dataclass
class Output:
    """What came of a job."""

    ids: list[int] = field(default_factory=list)
    """Completion with its stop token where one was emitted."""
    log_probs: list[float] = field(default_factory=list)
    """Log-probability of each token under the unmasked distribution at temperature 1."""
    reason: Literal["stop", "length"] = "length"
    """Why it ended."""
    n_cached: int = 0
    """Prompt tokens that were served from the cache of heads."""
    seconds: float = 0.0
    """The job's share of the time that its steps took."""


@dataclass(eq=False)
class _Row:
    job: Job
    row: int
    output: Output
    pending: list[int]
    """Tokens to feed next; logits are wanted for the last `n_wanted`."""
    n_wanted: int
    limit: int
    """Most tokens that the completion may have."""
    rng: np.random.Generator

    @property
    def is_over(self) -> bool:
        """Whether nothing may be added: the grammar is at its end, or the limit is reached."""
        constraint = self.job.constraint
        is_done = constraint is not None and constraint.is_done
        return is_done or len(self.output.ids) >= self.limit

    @property
    def is_booked(self) -> bool:
        """Whether every token has its log-probability."""
        return len(self.output.log_probs) == len(self.output.ids)

    def force(self) -> list[int]:
        """Append what the grammar forces next, cut at the limit, and return it."""
        constraint = self.job.constraint
        if constraint is None or self.is_over:
            return []
        forced = constraint.forced()
        kept = forced[: self.limit - len(self.output.ids)]
        self.output.ids.extend(kept)
        if constraint.is_done and len(kept) == len(forced):
            self.output.reason = "stop"
        return kept


class Decoder:
    """Steps all open rows of one network; used by one thread at a time. All rows have the same adapter."""

    def __init__(
        self, network: Network, end_ids: frozenset[int], *, max_rows: int = 32, n_heads: int = 4
    ) -> None:
        self._network = network
        self._end_ids = end_ids
        self._max_rows = max_rows
        self._heads = HeadCache(network, end_ids, n_heads)
        self._rows: list[_Row] = []
        self._adapter = ""
        self._bits = np.zeros((max_rows, -(-network.n_vocab // 32)), dtype=np.int32)

    @property
    def jobs(self) -> list[Job]:
        """Jobs in progress."""
        return [row.job for row in self._rows]

    def has_room_for(self, job: Job) -> bool:
        """Tell whether `job` can join the rows that are open now."""
        if not self._rows:
            return True
        rooms = [len(row.job.prompt) + row.job.max_new_tokens for row in self._rows]
        longest = max(*rooms, len(job.prompt) + job.max_new_tokens)
        n_rows = len(self._rows) + 1
        is_small_enough = n_rows <= self._max_rows and n_rows * longest <= _MAX_CACHED_TOKENS
        return is_small_enough and job.adapter == self._adapter

    def admit(self, job: Job) -> None:
        """Open a row for `job`; raises ModelError where its prompt does not fit."""
        left = self._network.n_positions - len(job.prompt)
        if left < 1:
            raise ModelError(
                f"a prompt of {len(job.prompt)} tokens does not fit the context of"
                f" {self._network.n_positions} tokens",
                hint="recall fewer memories, describe fewer tools, or shorten the conversation",
                n_tokens=len(job.prompt),
            )
        if not self._rows:
            self._network.use_adapter(job.adapter or None, job.adapter_folder)
            self._adapter = job.adapter
        start = time.perf_counter()
        output = Output()
        limit = min(job.max_new_tokens, left)
        head, was_there = self._heads.find(job.prompt, job.adapter)
        n_head = len(head.ids) if head else 0
        output.n_cached = n_head if was_there else 0
        rest = job.prompt[n_head:]
        number = self._network.open(head, len(rest) + limit)
        row = _Row(job, number, output, list(rest), 1, limit, np.random.default_rng(job.seed))
        forced = row.force()
        row.pending.extend(forced)
        row.n_wanted += len(forced)
        self._rows.append(row)
        output.seconds += time.perf_counter() - start

    def step(self) -> list[tuple[Job, Output]]:
        """Feed what is pending, choose a token for every row, and return the jobs that are finished."""
        start = time.perf_counter()
        rows = self._rows
        logits = self._network.extend([Piece(row.row, row.pending, row.n_wanted) for row in rows])
        values: NDArray[np.float32] = logits.cpu().numpy()
        totals = _log_sum_exp(values)
        lasts, going, at = [], [], 0
        for row in rows:
            last = at + row.n_wanted - 1
            _book_forced(row, values[at:last], totals[at:last])
            if not row.is_over:
                going.append(row)
                lasts.append(last)
            at = last + 1
        chosen = self._choose(going, values[lasts]) if going else []
        for row, last, token in zip(going, lasts, chosen, strict=True):
            row.output.log_probs.append(float(values[last, token] - totals[last]))
            self._take(row, token)
        share = (time.perf_counter() - start) / len(rows)
        for row in rows:
            row.output.seconds += share
        return self._finished()

    def reset(self) -> list[Job]:
        """Give up all rows and heads after a fault; return the jobs that were in progress."""
        jobs = self.jobs
        for row in self._rows:
            self._network.close(row.row)
        self._rows = []
        self._heads.clear()
        return jobs

    def score(self, job: Job, texts: Sequence[Sequence[int]]) -> list[float]:
        """Return the log-likelihood of each text after the prompt; only while no row is open."""
        self._network.use_adapter(job.adapter or None, job.adapter_folder)
        shared, _ = self._heads.find(job.prompt, job.adapter)
        head = self._network.head(job.prompt[:-1], shared) if len(job.prompt) > 1 else None
        found: list[float] = []
        for start in range(0, len(texts), self._max_rows):
            batch = texts[start : start + self._max_rows]
            rows = [self._network.open(head, len(ids)) for ids in batch]
            try:
                pieces = [
                    Piece(row, [job.prompt[-1], *ids[:-1]], len(ids))
                    for row, ids in zip(rows, batch, strict=True)
                ]
                logits = self._network.extend(pieces).log_softmax(-1).cpu().numpy()
            finally:
                for row in rows:
                    self._network.close(row)
            at = 0
            for ids in batch:
                found.append(float(logits[np.arange(at, at + len(ids)), list(ids)].sum()))
                at += len(ids)
        return found

    def _take(self, row: _Row, token: int) -> None:
        """Append the chosen token and whatever the grammar forces after it."""
        row.output.ids.append(token)
        constraint = row.job.constraint
        if constraint is not None:
            constraint.take(token)
        if token in self._end_ids or (constraint is not None and constraint.is_done):
            row.output.reason, row.pending = "stop", []
        else:
            forced = row.force()
            row.pending, row.n_wanted = [token, *forced], len(forced) + 1

    def _finished(self) -> list[tuple[Job, Output]]:
        done = [row for row in self._rows if not row.pending or (row.is_booked and row.is_over)]
        for row in done:
            self._network.close(row.row)
        self._rows = [row for row in self._rows if row not in done]
        return [(row.job, row.output) for row in done]

    def _choose(self, rows: Sequence[_Row], values: NDArray[np.float32]) -> list[int]:
        """Choose a token per row from its logits `[rows, vocab]`, which are overwritten."""
        bits = self._bits[: len(rows)]
        bits.fill(-1)
        for place, row in enumerate(rows):
            if row.job.constraint is not None:
                row.job.constraint.mask(bits[place])
        if any(row.job.constraint is not None for row in rows):
            allowed = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")[:, : values.shape[1]]
            np.copyto(values, -np.inf, where=allowed == 0)
        best: list[int] = values.argmax(axis=1).tolist()
        return [
            _draw(row, logits) if row.job.temperature > 0 else token
            for row, logits, token in zip(rows, values, best, strict=True)
        ]


def _log_sum_exp(values: NDArray[np.float32]) -> NDArray[np.float32]:
    # numpy adds every row in the same order however many there are; torch does not.
    highest = values.max(axis=1, keepdims=True)
    total: NDArray[np.float32] = np.log(np.exp(values - highest).sum(axis=1)) + highest[:, 0]
    return total


def _book_forced(row: _Row, values: NDArray[np.float32], totals: NDArray[np.float32]) -> None:
    if len(values):
        forced = row.pending[len(row.pending) - len(values) :]
        row.output.log_probs.extend((values[np.arange(len(values)), forced] - totals).tolist())


def _draw(row: _Row, logits: NDArray[np.float32]) -> int:
    """Draw a token: temperature first, then the smallest set that holds `top_p` of the probability."""
    scaled = logits.astype(np.float64) / row.job.temperature
    probs = np.exp(scaled - scaled.max())
    probs /= probs.sum()
    order = np.argsort(-probs, kind="stable")
    n_kept = int(np.searchsorted(np.cumsum(probs[order]), row.job.top_p)) + 1
    kept = order[:n_kept]
    return int(row.rng.choice(kept, p=probs[kept] / probs[kept].sum()))
