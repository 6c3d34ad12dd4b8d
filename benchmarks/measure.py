"""What every benchmark shares: rows of a result, the table they print, and the file they are written to."""

from __future__ import annotations

import json
import os
import platform
import resource
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")
WORK = Path(__file__).with_name(".work")


@dataclass(frozen=True)
class Row:
    """One figure: ours, what it is measured against, and the bar that it has to hold."""

    metric: str
    ours: float
    bar: str = ""
    holds: bool | None = None
    peer: float | None = None
    peer_name: str = ""
    low: float | None = None
    high: float | None = None
    n: int | None = None

    @property
    def ratio(self) -> float | None:
        """Return ours / peer; None without a peer, or with a peer of 0."""
        return self.ours / self.peer if self.peer else None


def at_least(metric: str, ours: float, bar: float, **rest: Any) -> Row:
    """Return a row that holds where `ours` reaches the bar."""
    return Row(metric, ours, f">= {bar:g}", bool(ours >= bar), **rest)


def above(metric: str, ours: float, low: float, bar: float, **rest: Any) -> Row:
    """Return a row that holds where the lower bound `low` is above the bar."""
    return Row(metric, ours, f"lower bound > {bar:g}", bool(low > bar), low=low, **rest)


def at_most(metric: str, ours: float, bar: float, **rest: Any) -> Row:
    """Return a row that holds where `ours` stays under the bar."""
    return Row(metric, ours, f"<= {bar:g}", bool(ours <= bar), **rest)


def children_cpu_seconds() -> float:
    """Return the CPU seconds of all processes that this one started and waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def peak_bytes() -> int:
    """Return the peak of this program's memory; `ru_maxrss` would count what the forking parent held."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024


def kept(name: str) -> Path:
    """Return the folder of finished cells that go with the results: another machine goes on from there."""
    return RESULTS / "cells" / name


class Cells:
    """The finished parts of a long run, kept in `.work/`, so that one that is killed goes on where it was."""

    def __init__(self, name: str, **key: Any) -> None:
        """Read what a run with the same name and key has done; another key begins anew."""
        self._file = WORK / f"{name}.cells.jsonl"
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._done: dict[str, Any] = {}
        lines = self._file.read_text(encoding="utf-8").splitlines() if self._file.is_file() else []
        if lines and json.loads(lines[0]) == key:
            for line in lines[1:]:
                with suppress(ValueError):  # cut off by a kill
                    self._done.update(json.loads(line))
        else:
            self._file.write_text(json.dumps(key) + "\n", encoding="utf-8")

    def do(self, cell: str, work: Callable[[], Any]) -> Any:
        """Return what `work` gave, now or in an earlier run; it must be plain JSON."""
        if cell not in self._done:
            found = work()
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({cell: found}) + "\n")
            self._done[cell] = found
        return self._done[cell]

    def clear(self) -> None:
        """Forget everything: the run is published."""
        self._file.unlink(missing_ok=True)


def publish(name: str, rows: Sequence[Row], facts: Mapping[str, Any]) -> int:
    """Print the table, write `results/<name>.json`, and return 1 where a bar is not held."""
    RESULTS.mkdir(exist_ok=True)
    machine = {"cores": os.cpu_count(), "system": platform.platform(terse=True), "load": os.getloadavg()}
    result = {
        "name": name,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        **facts,
        "rows": [{**asdict(row), "ratio": row.ratio} for row in rows],
    }
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    width = max(len(row.metric) for row in rows)
    print(f"{'':{width}}  {'ours':>10}  {'interval':>16}  {'peer':>10}  {'ratio':>6}  bar")
    for row in rows:
        between = f"[{row.low:.3f}, {row.high:.3f}]" if row.low is not None and row.high is not None else ""
        ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
        held = {None: "", True: "  holds", False: "  NOT HELD"}[row.holds]
        print(
            f"{row.metric:{width}}  {_text(row.ours):>10}  {between:>16}  {_text(row.peer):>10}  {ratio:>6}  "
            f"{row.bar}{held}"
        )
    print(f"\nwritten to {file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file}")
    return int(any(row.holds is False for row in rows))


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"
