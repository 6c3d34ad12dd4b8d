"""What the training process says: JSON events for a parent, or plain lines for a person."""

from __future__ import annotations

import io
import json
import sys
import time
from typing import Any, TextIO

from agentkd.schema import TrainPlan

__all__ = ["Reporter"]

_LINE_EVERY_SECONDS = 5.0


class Reporter:
    """Says how far training is, on standard output as events or on standard error as text."""

    def __init__(self, *, is_machine: bool, out: TextIO | None = None, is_muted: bool = False) -> None:
        """Write JSON events to `out` (standard output) if `is_machine`, else text (standard error).

        A muted one, of all processes but the first, tells errors alone.
        """
        self._is_muted = is_muted
        self._is_machine = is_machine
        self._out = out or (sys.stdout if is_machine else sys.stderr)
        self._last = 0.0

    def say(self, line: str) -> None:
        """Say one line."""
        if not self._is_muted:
            self._write({"event": "say", "line": line}, line)

    def plan(self, plan: TrainPlan) -> None:
        """Hand a plan over; people get it as JSON."""
        self._write({"event": "plan", "plan": plan.model_dump(mode="json")}, plan.model_dump_json(indent=2))

    def error(self, kind: str, message: str, hint: str) -> None:
        """Say why training stops."""
        self._write({"event": "error", "kind": kind, "message": message, "hint": hint}, f"{message} ({hint})")

    def progress(self, label: str, done: float, total: float, unit: str, note: str = "") -> None:
        """Say how much of a part is done; people get a line every five seconds, or a line that moves."""
        if self._is_muted:
            return
        if self._is_machine:
            facts = {"label": label, "done": done, "total": total, "unit": unit, "note": note}
            self._write({"event": "progress", **facts}, "")
            return
        is_tty, is_last = self._out.isatty(), done >= total
        if is_tty or is_last or time.monotonic() - self._last > _LINE_EVERY_SECONDS:
            self._last = time.monotonic()
            end = "\n" if is_last or not is_tty else ""
            start = "\r\x1b[K" if is_tty else ""
            self._emit(f"{start}{label} {done:g}/{total:g} {unit} {note}{end}")

    def _write(self, event: dict[str, Any], text: str) -> None:
        self._emit((json.dumps(event) if self._is_machine else text) + "\n")

    def _emit(self, text: str) -> None:
        try:
            self._out.write(text)
            self._out.flush()
        except BrokenPipeError:  # whoever listened is gone; the loop notices that and saves
            self._out = io.StringIO()
