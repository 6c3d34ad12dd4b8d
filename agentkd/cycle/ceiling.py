"""Ceilings of a cycle in seconds, tokens and money, and a person's wish to stop: asked between two items."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agentkd.errors import CeilingError
from agentkd.protocols import Bar, Progress

__all__ = ["Ceiling"]


class Ceiling:
    """What one call may take, from its beginning; safe to ask from several threads.

    The first item of a call is always done, so that repeated calls come to an end however low a ceiling is.
    """

    def __init__(
        self,
        *,
        max_seconds: float | None = None,
        max_tokens: int | None = None,
        max_usd: float | None = None,
        spent: Callable[[], tuple[int, float]] = lambda: (0, 0.0),
        asked: Callable[[], str] = lambda: "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the clock.

        Args:
            max_seconds: Wall time.
            max_tokens: Tokens that models read and write, local ones included.
            max_usd: Money; a call whose price is unknown counts as nothing.
            spent: Tokens and money that all models of this process have booked so far.
            asked: Why to stop at once, such as the name of a signal; empty to go on.
            clock: Seconds.
        """
        self.max_seconds, self.max_tokens, self.max_usd = max_seconds, max_tokens, max_usd
        self._spent, self._asked, self._clock = spent, asked, clock
        self._started = clock()
        self._tokens, self._usd = spent()
        self._has_worked = False

    def reason(self) -> str:
        """Return which ceiling is met, with its figures; empty where none is."""
        if asked := self._asked():
            return f"asked to stop ({asked})"
        tokens, usd = self._spent()
        seconds = self._clock() - self._started
        if self.max_seconds is not None and seconds >= self.max_seconds:
            return f"the ceiling of {self.max_seconds:g} seconds is met after {seconds:.0f}"
        if self.max_tokens is not None and tokens - self._tokens >= self.max_tokens:
            return f"the ceiling of {self.max_tokens} tokens is met with {tokens - self._tokens}"
        if self.max_usd is not None and usd - self._usd >= self.max_usd:
            return f"the ceiling of ${self.max_usd:g} is met with ${usd - self._usd:.4f}"
        return ""

    def begin(self) -> None:
        """Begin an item; raises CeilingError where a ceiling is met and this call has done something."""
        self.check()
        self.done()

    def done(self) -> None:
        """Note that this call has done something: from now on its ceilings count."""
        self._has_worked = True

    def check(self) -> None:
        """Raise CeilingError where a ceiling is met; one who asks is heard even before the first item."""
        if (self._has_worked or self._asked()) and (reason := self.reason()):
            raise CeilingError(reason, hint="what is done is kept; the same command goes on from here")

    def watching(self, progress: Progress) -> Progress:
        """Return progress that raises CeilingError between two steps of what it shows, such as a training."""
        return _Watching(self, progress)


class _Watching:
    def __init__(self, ceiling: Ceiling, progress: Progress) -> None:
        self._ceiling = ceiling
        self._progress = progress

    @contextmanager
    def bar(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Bar]:
        with self._progress.bar(label, total, unit) as bar:
            yield _WatchedBar(self._ceiling, bar)

    def say(self, line: str) -> None:
        self._progress.say(line)


class _WatchedBar:
    def __init__(self, ceiling: Ceiling, bar: Bar) -> None:
        self._ceiling = ceiling
        self._bar = bar

    def advance(self, n: float = 1, *, note: str = "") -> None:
        self._bar.advance(n, note=note)
        self._ceiling.begin()
