"""Gather requests of many threads into batches: callers wait, a few threads decode for all."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Any

from agentkd.errors import AgentkdError, ModelError
from agentkd.models.decode import Decoder, Job, Output

__all__ = ["Batcher"]

_QUIET_SECONDS = 0.004  # a first batch waits until nobody has come for so long ...
_GATHER_SECONDS = 0.03  # ... but no longer than this
_IDLE_SECONDS = 5.0
_MOST_PASSED = 64  # jobs with the adapter of the open rows that go before the oldest one
_LOOKED_AT = 256  # places of the queue in which such a job is looked for

Work = Callable[[Decoder], Any]


class Batcher:
    """Runs each decoder in a thread that starts with the first request and ends after some idle seconds.

    Requests join between two steps, in the order in which they came; the decoders share them evenly. Where
    the oldest waits for rows of another adapter to end, a bounded number of younger ones with that adapter go
    before it, so that requests of several students in turn still fill a batch each. `call` runs other work
    with a decoder that has no open row. Every method is safe to call from any thread.
    """

    def __init__(self, decoders: Sequence[Decoder], *, n_threads: int = 0) -> None:
        """Take decoders that may run side by side, with `n_threads` kernel threads each (0: all)."""
        self._decoders = decoders
        self._n_threads = n_threads
        self._waiting: deque[tuple[Job | Work, Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._threads: dict[int, threading.Thread] = {}
        self._running: list[dict[int, Future[Output]]] = [{} for _ in decoders]
        self._n_passed = 0

    def submit(self, job: Job) -> Future[Output]:
        """Queue a job and return its future output."""
        return self._queue(job)

    def call(self, work: Work) -> Future[Any]:
        """Queue work that needs a decoder for itself."""
        return self._queue(work)

    def _queue(self, item: Job | Work) -> Future[Any]:
        future: Future[Any] = Future()
        with self._changed:
            self._waiting.append((item, future))
            for place in range(len(self._decoders)):
                if place not in self._threads:
                    name = f"agentkd-decode-{place}"
                    thread = threading.Thread(target=self._run, args=(place,), name=name, daemon=True)
                    self._threads[place] = thread
                    thread.start()
            self._changed.notify_all()
        return future

    def _run(self, place: int) -> None:
        if self._n_threads:
            import torch

            torch.set_num_threads(self._n_threads)
        decoder, running = self._decoders[place], self._running[place]
        while self._await_work(place):
            try:
                self._admit(place)
                if running:
                    for job, output in decoder.step():
                        running.pop(id(job)).set_result(output)
            except BaseException as error:  # callers wait: they must hear of every fault
                for future in running.values():
                    future.set_exception(_as_model_error(error))
                running.clear()
                decoder.reset()

    def _await_work(self, place: int) -> bool:
        """Wait for requests; return False when the thread should end."""
        with self._changed:
            if self._running[place]:
                return True
            if not self._waiting and not self._changed.wait_for(lambda: bool(self._waiting), _IDLE_SECONDS):
                del self._threads[place]
                return False
            deadline, n_seen = time.monotonic() + _GATHER_SECONDS, 0
            while len(self._waiting) > n_seen and time.monotonic() < deadline:
                n_seen = len(self._waiting)
                self._changed.wait(_QUIET_SECONDS)
            return True

    def _admit(self, place: int) -> None:
        decoder, running = self._decoders[place], self._running[place]
        while True:
            with self._changed:
                if not self._waiting or len(running) >= self._fair_share():
                    return
                at = self._next(decoder) if running else 0
                if at is None:
                    return
                item, future = self._waiting[at]
                del self._waiting[at]
                self._n_passed = self._n_passed + 1 if at else 0
                if not future.set_running_or_notify_cancel():
                    continue
                if isinstance(item, Job):
                    running[id(item)] = future
            try:
                if isinstance(item, Job):
                    decoder.admit(item)
                else:
                    future.set_result(item(decoder))
            except Exception as error:
                running.pop(id(item), None)
                future.set_exception(_as_model_error(error))

    def _next(self, decoder: Decoder) -> int | None:
        """Return the place in the queue of a job that can join the open rows; None where none may."""
        last = 1 if self._n_passed >= _MOST_PASSED else _LOOKED_AT
        for at, (item, _) in enumerate(islice(self._waiting, last)):
            if not isinstance(item, Job):
                return None  # it wants a decoder for itself, and nobody goes before it
            if decoder.has_room_for(item):
                return at
        return None

    def _fair_share(self) -> int:
        n_all = len(self._waiting) + sum(len(running) for running in self._running)
        return -(-n_all // len(self._decoders))


def _as_model_error(error: BaseException) -> BaseException:
    if isinstance(error, AgentkdError):
        return error
    problem = ModelError(f"decoding failed: {type(error).__name__}: {error}")
    problem.__cause__ = error
    return problem
