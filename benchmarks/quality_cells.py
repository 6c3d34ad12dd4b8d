"""The arithmetic of `quality.py`: cells on disk, figures pooled over seeds, and what is kept of a gain."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

BASE = "base"
RESAMPLES, LEVEL = 10_000, 0.95


@dataclass(frozen=True)
class Cell:
    """What one arm did under one seed on one suite."""

    suite: str
    seed: int
    arm: str
    key: str
    """Hash of the settings that it was made under: another key is another cell."""
    tasks: tuple[str, ...]
    off: tuple[float, ...]
    """Success per task without memory."""
    on: tuple[float, ...]
    """Success per task with memory."""
    valid: tuple[float, float] = (0.0, 0.0)
    """Share of runs that ended in a call that was taken: without memory, with memory."""
    anchor: float = 0.0
    """Cross-entropy on the anchor texts."""
    label_tokens: float = 0.0
    cpu_seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


def write_cell(folder: Path, cell: Cell) -> None:
    """Keep a finished cell; a half-written one never stands under its name."""
    folder.mkdir(parents=True, exist_ok=True)
    file = cell_file(folder, cell.suite, cell.seed, cell.arm)
    aside = file.with_suffix(f".{os.getpid()}.tmp")
    aside.write_text(json.dumps(asdict(cell), indent=1) + "\n", encoding="utf-8")
    os.replace(aside, file)


def read_cell(folder: Path, suite: str, seed: int, arm: str, key: str = "") -> Cell | None:
    """Return a finished cell; None where there is none, or where it was made under other settings."""
    file = cell_file(folder, suite, seed, arm)
    if not file.is_file():
        return None
    data = json.loads(file.read_text(encoding="utf-8"))
    for name in ("tasks", "off", "on", "valid"):
        data[name] = tuple(data[name])
    cell = Cell(**data)
    return cell if key in ("", cell.key) else None


def cell_file(folder: Path, suite: str, seed: int, arm: str) -> Path:
    """Return where a cell is kept."""
    return folder / f"{suite}-{seed}-{arm.replace(' ', '-')}.json"


@dataclass(frozen=True)
class Figure:
    """A figure with the interval of a bootstrap over tasks."""

    value: float
    low: float
    high: float
    n: int
    """Pairs: tasks times seeds."""


def pooled(pairs: Sequence[tuple[Cell, Cell]], score: Callable[[Cell, Cell, int], float]) -> Figure:
    """Return the mean of `score(cell, base, place)` over all seeds and tasks.

    A task that several seeds drew is drawn as a whole: its results are not independent.
    """
    tasks, sums, counts = _by_task(pairs, [score])
    draws = _draws(len(tasks))
    means = (draws @ sums[:, 0]) / (draws @ counts)
    low, high = _bounds(means)
    return Figure(float(sums[:, 0].sum() / counts.sum()), low, high, int(counts.sum()))


def retention(pairs: Sequence[tuple[Cell, Cell]]) -> Figure:
    """Return (student without memory - base) / (base + memory - base) over all seeds and tasks.

    A resample without a gain to keep counts as kept without end where the student gained, and as lost where
    it did not, so that a weak gain gives a wide interval.
    """
    tasks, sums, counts = _by_task(pairs, [gained, gain_of_memory])
    draws = _draws(len(tasks))
    value = _ratio(sums[:, 0].sum(keepdims=True), sums[:, 1].sum(keepdims=True))[0]
    low, high = _bounds(_ratio(draws @ sums[:, 0], draws @ sums[:, 1]))
    return Figure(float(value), low, high, int(counts.sum()))


def success_off(cell: Cell, base: Cell, place: int) -> float:
    """Return the success without memory."""
    return cell.off[place]


def success_on(cell: Cell, base: Cell, place: int) -> float:
    """Return the success with memory."""
    return cell.on[place]


def gained(cell: Cell, base: Cell, place: int) -> float:
    """Return what the arm without memory does better than the base without memory."""
    return cell.off[place] - base.off[place]


def gained_on(cell: Cell, base: Cell, place: int) -> float:
    """Return what the arm with memory does better than the base without memory."""
    return cell.on[place] - base.off[place]


def gain_of_memory(cell: Cell, base: Cell, place: int) -> float:
    """Return what memory alone does for the base."""
    return base.on[place] - base.off[place]


def memory_effect(cell: Cell, base: Cell, place: int) -> float:
    """Return what memory does for the arm itself."""
    return cell.on[place] - cell.off[place]


def paired_cells(cells: Mapping[tuple[str, int, str], Cell], suite: str, arm: str) -> list[tuple[Cell, Cell]]:
    """Return an arm's cells with the base of the same seed; seeds that lack one of the two are left out."""
    found = []
    for (name, seed, kind), cell in sorted(cells.items()):
        base = cells.get((suite, seed, BASE))
        if (name, kind) == (suite, arm) and base is not None:
            if base.tasks != cell.tasks:
                raise SystemExit(f"`{arm}` and `{BASE}` of {suite}, seed {seed}, ran on different tasks")
            found.append((cell, base))
    return found


def _by_task(
    pairs: Sequence[tuple[Cell, Cell]], scores: Sequence[Callable[[Cell, Cell, int], float]]
) -> tuple[list[str], Any, Any]:
    places: dict[str, int] = {}
    for cell, _ in pairs:
        for task in cell.tasks:
            places.setdefault(task, len(places))
    sums, counts = np.zeros((len(places), len(scores))), np.zeros(len(places))
    for cell, base in pairs:
        for place, task in enumerate(cell.tasks):
            counts[places[task]] += 1
            sums[places[task]] += [score(cell, base, place) for score in scores]
    return list(places), sums, counts


def _draws(n: int) -> Any:
    """Return how often each of `n` tasks is drawn in each resample, `[resamples, n]`."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)


def _ratio(above: Any, below: Any) -> Any:
    endless = np.where(above > 0, np.inf, -np.inf)
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), endless)


def _bounds(values: Any) -> tuple[float, float]:
    # An order statistic rather than an interpolation: infinite values have no mean.
    ordered = np.sort(values)
    low, high = (0.5 - LEVEL / 2) * (len(ordered) - 1), (0.5 + LEVEL / 2) * (len(ordered) - 1)
    return float(ordered[int(np.floor(low))]), float(ordered[int(np.ceil(high))])
