"""Progress on stderr: bars with ETA on a terminal, one line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from agentkd.protocols import Bar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["RichProgress", "clock_text"]


def clock_text(seconds: float) -> str:
    """Return seconds as `8 s`, `3 min 05 s` or `2 h 07 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class RichProgress:
    """Implements `agentkd.protocols.Progress` for people who watch; safe to use from several threads."""

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        every_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream or sys.stderr
        self._every_seconds = every_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._live: Progress | None = None
        self._n_open = 0

    @contextmanager
    def bar(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Bar]:
        """Open a bar of `total` units; it disappears into one closing line when it is done."""
        if not self._stream.isatty():
            bar = _LineBar(self._print, label, total, unit, self._every_seconds, self._clock)
            try:
                yield bar
            finally:
                bar.close()
            return
        live = self._open_live()
        task = live.add_task(label, total=total, unit=unit, note="")
        try:
            yield _LiveBar(live, task)
        finally:
            live.stop_task(task)
            self._close_live()

    def say(self, line: str) -> None:
        """Print one line above the bars."""
        with self._lock:
            live = self._live
        if live is not None:
            live.console.print(line, markup=False, highlight=False)
        else:
            self._print(line)

    def _print(self, line: str) -> None:
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()

    def _open_live(self) -> Progress:
        with self._lock:
            if self._live is None:
                self._live = _live_progress(self._stream)
                self._live.start()
            self._n_open += 1
            return self._live

    def _close_live(self) -> None:
        with self._lock:
            self._n_open -= 1
            if self._n_open == 0 and self._live is not None:
                self._live.stop()
                self._live = None


def _live_progress(stream: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
        console=Console(file=stream, highlight=False, emoji=False),
        refresh_per_second=4,
    )


class _LiveBar:
    """One bar of a live display."""

    def __init__(self, live: Progress, task: TaskID) -> None:
        self._live = live
        self._task = task

    def advance(self, n: float = 1, *, note: str = "") -> None:
        """Move on by `n` units."""
        if note:
            self._live.update(self._task, advance=n, note=note)
        else:
            self._live.update(self._task, advance=n)


class _LineBar:
    """A bar for log files: a line when ten seconds have passed, and one at the end."""

    def __init__(
        self,
        write: Callable[[str], None],
        label: str,
        total: float | None,
        unit: str,
        every_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._write = write
        self._label = label
        self._total = total
        self._unit = unit
        self._every_seconds = every_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._started = self._last = clock()
        self._done = 0.0
        self._note = ""
        self._n_lines = 0

    def advance(self, n: float = 1, *, note: str = "") -> None:
        """Move on by `n` units; prints where the last line is old enough."""
        with self._lock:
            self._done += n
            self._note = note or self._note
            moment = self._clock()
            if moment - self._last < self._every_seconds:
                return
            self._last = moment
            self._n_lines += 1
            line = self._line(moment)
        self._write(line)

    def close(self) -> None:
        """Print the closing line, unless the work was too short to speak of."""
        seconds = self._clock() - self._started
        if self._n_lines or seconds >= 2.0:
            self._write(f"{self._label}: {self._counted()} in {clock_text(seconds)}")

    def _counted(self) -> str:
        total = "" if self._total is None else f"/{self._total:g}"
        return f"{self._done:g}{total} {self._unit}".rstrip()

    def _line(self, moment: float) -> str:
        elapsed = moment - self._started
        parts = [self._counted()]
        if self._total:
            parts.append(f"{self._done / self._total:.0%}")
        parts.append(f"after {clock_text(elapsed)}")
        if self._total and 0 < self._done < self._total:
            parts.append(f"eta {clock_text(elapsed * (self._total - self._done) / self._done)}")
        if self._note:
            parts.append(self._note)
        return f"{self._label}: {', '.join(parts)}"
