"""Build the vectors anew in a thread of its own, beside those in use, while recalls go on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agentkd.errors import AgentkdError

if TYPE_CHECKING:
    from agentkd.memory.projection import Projection

__all__ = ["Renewal"]


class Renewal:
    """One rebuild in the background; stopped half-way, the next one goes on from there."""

    def __init__(self, projection: Projection, index: Any, say: Callable[[str], None]) -> None:
        """Start the thread; `say` is told what ended it, unless it was stopped."""
        self._projection = projection
        self._index = index
        self._say = say
        self._is_stopped = False
        self.error: AgentkdError | None = None
        """What ended it before its time."""
        self._thread = threading.Thread(target=self._run, name="agentkd-renewal", daemon=True)
        self._thread.start()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end; False where it is not reached in time."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Let it end after the batch at work."""
        self._is_stopped = True
        self._index.interrupt()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._projection.rebuild(words=False)
        except AgentkdError as error:
            self.error = error
            if not self._is_stopped:
                self._say(f"the index keeps its old settings, building it anew failed: {error}")
