"""Gather requests of many threads into one batch: callers wait, one thread decodes for all."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

from agentkd.errors import AgentkdError, ModelError
from agentkd.models.decode import Job, Output

__all__ = ["Batcher"]

_QUIET_SECONDS = 0.004  # a first batch waits until nobody has come for so long ...
_GATHER_SECONDS = 0.03  # ... but no longer than this
_IDLE_SECONDS = 5.0


class _Steps(Protocol):
    """What the batcher needs of `agentkd.models.decode.Decoder`."""

    @property
    def jobs(self) -> list[Job]: ...
    def has_room_for(self, job: Job) -> bool: ...
    def admit(self, job: Job) -> None: ...
    def step(self) -> list[tuple[Job, Output]]: ...
    def reset(self) -> list[Job]: ...


class Batcher:
    """Runs a decoder in a thread that starts with the first request and ends after some idle seconds.

    Requests join between two steps, in the order in which they came. `call` runs other work of the network in
    the same thread, while no row is open. Every method is safe to call from any thread.
    """

    def __init__(self, decoder: _Steps) -> None:
        self._decoder = decoder
        self._waiting: deque[tuple[Job | Callable[[], Any], Future[Any]]] = deque()
        self._running: dict[int, Future[Output]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def submit(self, job: Job) -> Future[Output]:
        """Queue a job and return its future output."""
        return self._queue(job)

    def call(self, work: Callable[[], Any]) -> Future[Any]:
        """Queue work that needs the network for itself."""
        return self._queue(work)

    def _queue(self, item: Job | Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        with self._changed:
            self._waiting.append((item, future))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="agentkd-decode", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return future

    def _run(self) -> None:
        while self._await_work():
            try:
                self._admit()
                if self._running:
                    for job, output in self._decoder.step():
                        self._running.pop(id(job)).set_result(output)
            except BaseException as error:  # callers wait: they must hear of every fault
                self._fail(error)

    def _await_work(self) -> bool:
        """Wait for requests; return False when the thread should end."""
        with self._changed:
            if self._running:
                return True
            self._changed.wait_for(lambda: bool(self._waiting), timeout=_IDLE_SECONDS)
            if not self._waiting:
                self._thread = None
                return False
            deadline, n_seen = time.monotonic() + _GATHER_SECONDS, 0
            while len(self._waiting) > n_seen and time.monotonic() < deadline:
                n_seen = len(self._waiting)
                self._changed.wait_for(lambda n=n_seen: len(self._waiting) > n, timeout=_QUIET_SECONDS)  # type: ignore[misc]
            return True

    def _admit(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    return
                item, future = self._waiting[0]
                is_job = isinstance(item, Job)
                if (is_job and not self._decoder.has_room_for(item)) or (not is_job and self._running):
                    return
                self._waiting.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                if isinstance(item, Job):
                    self._decoder.admit(item)
                    self._running[id(item)] = future
                else:
                    future.set_result(item())
            except Exception as error:
                future.set_exception(_as_model_error(error))

    def _fail(self, error: BaseException) -> None:
        self._decoder.reset()
        running, self._running = self._running, {}
        for future in running.values():
            future.set_exception(_as_model_error(error))


def _as_model_error(error: BaseException) -> BaseException:
    if isinstance(error, AgentkdError):
        return error
    problem = ModelError(f"decoding failed: {type(error).__name__}: {error}")
    problem.__cause__ = error
    return problem
