"""Weights or memory: which place of a cluster's memories does best at what cost, from paired runs.

For a cluster that was trained on, a task is tried in four ways: by the base and by the student, each with
the cluster's memories in the prompt and with them withheld, all else equal. Those are the places `neither`
(base, withheld), `context` (base, shown), `weights` (student, withheld) and `both` (student, shown). What
was not trained on, such as facts, has two: `neither` and `context`, tried by the student.

Source of the split that this measures: NesyCD (arXiv 2409.13203), procedure to weights, facts to a store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentkd.config import PlaceSettings
from agentkd.evaluate.statistics import paired_bootstrap, wilson
from agentkd.schema import Option, Place, Placement

__all__ = ["Cell", "Cluster", "decide_place"]


_WITHHELD: dict[Place, Place] = {"context": "neither", "both": "weights"}
"""The way in which the same model works without the cluster's memories."""


@dataclass(frozen=True)
class Cell:
    """The cluster's tasks, tried in one way; all cells hold the same tasks in the same order."""

    place: Place
    """Which place of the memories the way stands for."""
    done: Sequence[bool]
    """Whether each task was done."""
    prompt_tokens: Sequence[float]
    """Prompt tokens of each task."""


@dataclass(frozen=True)
class Cluster:
    """What is judged, and its prices."""

    name: str
    """Words that its situations share."""
    memories: tuple[str, ...]
    """Ids of its memories."""
    is_fact: bool
    """Whether they are facts."""
    token_price: float
    """Seconds, or US dollars, of one prompt token."""
    training_price: float
    """The same for the training of its rows, shared out over `[place] horizon` tasks."""
    unit: Literal["seconds", "usd"] = "seconds"
    """Unit of the prices."""


def decide_place(
    cluster: Cluster, cells: Sequence[Cell], settings: PlaceSettings, *, seed: int = 0
) -> Placement:
    """Return the cheapest place among those that are not credibly worse than the best one.

    `neither` counts only where nothing that the others do is above `band`: too little evidence is no
    reason to forget. With fewer than `min_tasks` tasks the kind decides.
    """
    n = min((len(cell.done) for cell in cells), default=0)
    default: Place = "context" if cluster.is_fact else "weights"
    facts: dict[str, Any] = {
        "cluster": cluster.name, "memories": cluster.memories, "is_fact": cluster.is_fact, "n": n,
    }  # fmt: skip
    if n < settings.min_tasks:
        reason = f"{n} of {settings.min_tasks} tasks: too few, so the kind decides"
        return Placement(**facts, place=default, is_measured=False, reason=reason)
    best = max(cells, key=lambda cell: sum(cell.done))
    by_place = {cell.place: cell for cell in cells}
    options = [_option(cell, by_place, best, cluster, settings, seed) for cell in cells]
    options.sort(key=lambda option: option.cost)
    chosen = next(option for option in options if option.is_best)
    said = ", ".join(_said(option, cluster.unit) for option in options)
    return Placement(
        **facts, place=chosen.place, options=tuple(options), unit=cluster.unit,
        reason=f"{said}; best at least cost: {chosen.place}",
    )  # fmt: skip


def _option(
    cell: Cell, cells: Mapping[Place, Cell], best: Cell, cluster: Cluster, settings: PlaceSettings, seed: int
) -> Option:
    n, nothing = len(cell.done), cells["neither"]
    gain = paired_bootstrap(cell.done, nothing.done, seed=seed) if cell is not nothing else None
    behind = paired_bootstrap(best.done, cell.done, seed=seed)
    is_best = behind.value <= settings.band or (cell is not nothing and behind.low <= 0.0)
    if cell is nothing:
        is_best = behind.high <= settings.band
    withheld = cells[_WITHHELD.get(cell.place, cell.place)]
    tokens = (sum(cell.prompt_tokens) - sum(withheld.prompt_tokens)) / n
    in_weights = cell.place in ("weights", "both")
    cost = tokens * cluster.token_price + (cluster.training_price if in_weights else 0.0)
    return Option(
        place=cell.place,
        success=wilson(sum(cell.done), n),
        gain=gain,
        prompt_tokens=tokens,
        cost=cost,
        cost_per_point=cost / (100.0 * gain.value) if gain is not None and gain.value > 0 else None,
        is_best=is_best,
    )


def _said(option: Option, unit: str) -> str:
    price = ""
    if option.cost_per_point is not None:
        price = f" ({option.cost_per_point:.3g} {unit} per point)"
    return f"{option.place} {option.success.value:.2f}{price}"
