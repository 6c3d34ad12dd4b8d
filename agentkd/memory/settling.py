"""Give the index time to write what waits in memory: when nobody asks or adds anything, little by little.

A write keeps every thread of the process waiting (Chroma holds the interpreter), so steps are short and
come between the recalls; under constant use one comes every few seconds all the same.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from agentkd.errors import AgentkdError

if TYPE_CHECKING:
    from agentkd.memory.projection import Projection

__all__ = ["Settling"]

_IDLE_SECONDS = 0.5
_LONGEST_SECONDS = 2.0  # between two steps, however busy the store is
_STEP = 100  # vectors: some hundredths of a second
_PAUSE_SECONDS = 0.02  # between two steps of an idle store


class Settling:
    """One thread that comes when something waits and goes when all is written."""

    def __init__(self, projection: Projection) -> None:
        self._projection = projection
        self._used = time.monotonic()
        self._thread: threading.Thread | None = None
        self._guard = threading.Lock()
        self._stopped = threading.Event()

    def used(self) -> None:
        """Note that somebody has just used the store; begin where something waits."""
        self._used = time.monotonic()
        if self._thread is None and self._projection.waiting():
            with self._guard:
                if self._thread is None and not self._stopped.is_set():
                    self._thread = threading.Thread(target=self._run, name="agentkd-settle", daemon=True)
                    self._thread.start()

    def stop(self) -> None:
        """End it after the step at work; safe to call twice."""
        self._stopped.set()
        thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        begun, pause = time.monotonic(), _IDLE_SECONDS / 4
        while not self._stopped.wait(pause):
            now = time.monotonic()
            is_idle = now - self._used >= _IDLE_SECONDS
            pause = _PAUSE_SECONDS if is_idle else _IDLE_SECONDS / 4
            if not is_idle and now - begun < _LONGEST_SECONDS:
                continue
            try:
                self._projection.settle(_STEP)
            except AgentkdError:  # the index refuses, the next use says so; nothing that waits is lost
                break
            begun = time.monotonic()
            with self._guard:  # what is added from here on finds no thread, and begins one
                if not self._projection.waiting():
                    self._thread = None
                    return
        with self._guard:
            self._thread = None
