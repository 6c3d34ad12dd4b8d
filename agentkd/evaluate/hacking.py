"""Teacher hacking: a training that goes on pleasing its own loss while what it is for gets no better.

The loss that is trained on is the proxy; the loss on rows kept back is the golden metric. While a student
learns, the proxy falls along a power law of the step, a line where both axes are logarithmic. The alarm
sounds where the golden metric turns while the proxy still falls, and where the proxy leaves its law while the
golden metric does not fall along. Rows that are seen again push the proxy below its law by themselves: that
alone, with a golden metric that ended lower than where the law was fitted, is no alarm.

Source: D. Tiapkin et al., On Teacher Hacking in Language Model Distillation, arXiv 2502.02671.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from agentkd.protocols import Comparison, Kit
from agentkd.schema import Diagnosis, Value

__all__ = ["Course", "Hacking", "HackingAlarm", "find_hacking", "read_course"]

_FEWEST = 12  # steps: a law of fewer points says nothing
_FIRST = 0.1  # share of the steps that a warm-up may bend


class Course(Value):
    """The course of a training: what `metrics.jsonl` tells."""

    proxy: tuple[tuple[int, float], ...] = ()
    """(step, training loss)."""
    golden: tuple[tuple[int, float], ...] = ()
    """(step, loss on the rows kept back)."""


class Hacking(Value):
    """What a course says about teacher hacking."""

    n_steps: int
    """Steps with a training loss."""
    slope: float = 0.0
    """Exponent of the power law: loss ~ step ** slope."""
    spread: float = 0.0
    """Standard deviation of the logarithmic loss about the law, in the half that it was fitted on."""
    departure: float = 0.0
    """How far the last quarter ended off the law: 0.5 is half as much again, -0.5 half of it."""
    surprise: float = 0.0
    """The same in standard errors of the last quarter's mean."""
    golden_rise: float = 0.0
    """Relative rise of the golden metric from its best to its end."""
    golden_falls: bool = False
    """Whether the golden metric ended below what it was in the half that the law was fitted on."""
    proxy_falls: bool = False
    """Whether the training loss went on falling after the golden metric was at its best."""
    is_seen: bool = False
    """Whether there were enough steps to fit a law."""

    def is_hacked(self, max_departure: float, max_rise: float) -> str:
        """Return why the alarm sounds; empty where it is quiet.

        Args:
            max_departure: Largest share off the law that is no departure (with fewer than three standard
                errors none is).
            max_rise: Largest relative rise of the golden metric that is no turn.
        """
        if self.proxy_falls and self.golden_rise > max_rise:
            return "the loss on rows kept back turned while the training loss still fell"
        off = abs(math.log1p(self.departure)) > math.log1p(max_departure)
        stands_still = not self.golden_falls or (self.departure > 0 and self.golden_rise > 0)
        if self.is_seen and off and self.surprise > 3.0 and stands_still:
            return "the training loss left its power law and the loss on rows kept back did not fall along"
        return ""


def read_course(metrics: Path) -> Course:
    """Read the course of a training from its `metrics.jsonl`; an empty one where there is no such file.

    The proxy is the loss of the objectives: what anchors add to it follows no law of the task.
    """
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []
    rows = [json.loads(line) for line in lines if line.strip()]
    return Course(
        proxy=tuple((int(row["step"]), _task_loss(row)) for row in rows if "loss" in row),
        golden=tuple((int(row["step"]), float(row["dev_loss"])) for row in rows if "dev_loss" in row),
    )


def _task_loss(row: Mapping[str, Any]) -> float:
    """Return what the objectives have of the loss; logs of earlier versions hold no such figure."""
    if "task_loss" in row:
        return float(row["task_loss"])
    terms = {name: value for name, value in row.get("terms", {}).items() if name != "anchor"}
    return float(sum(terms.values()) if terms else row["loss"])


def find_hacking(course: Course) -> Hacking:
    """Fit the power law to the first half of a training and hold the last quarter against it."""
    points = [(math.log(step), math.log(loss)) for step, loss in course.proxy if step > 0 and loss > 0]
    found = _golden(course, len(points))
    if len(points) < _FEWEST:
        return found
    first, middle, last = round(_FIRST * len(points)), len(points) // 2, 3 * len(points) // 4
    slope, height, spread = _line(points[first:middle])
    residuals = [y - (height + slope * x) for x, y in points[last:]]
    off = fmean(residuals)
    surprise = abs(off) / max(spread / math.sqrt(len(residuals)), 1e-9)
    law = {"slope": slope, "spread": spread, "departure": math.expm1(off), "surprise": min(surprise, 1e6)}
    return found.model_copy(update={**law, "is_seen": True})


def _golden(course: Course, n_steps: int) -> Hacking:
    """Return what the loss on the rows kept back says by itself."""
    losses = [loss for _, loss in course.golden]
    if not losses:
        return Hacking(n_steps=n_steps)
    best = min(range(len(losses)), key=losses.__getitem__)
    half = course.proxy[len(course.proxy) // 2][0] if course.proxy else 0
    early = [loss for step, loss in course.golden[:-1] if step <= half] or losses[:1]
    turned = course.golden[best][0]
    before = [loss for step, loss in course.proxy if step <= turned]
    after = [loss for step, loss in course.proxy if step > turned]
    few = max(1, len(after) // 2)
    return Hacking(
        n_steps=n_steps,
        golden_rise=losses[-1] / losses[best] - 1 if losses[best] > 0 else 0.0,
        golden_falls=len(losses) == 1 or losses[-1] < early[-1],
        proxy_falls=bool(before and after) and fmean(after[-few:]) < fmean(before[-few:]),
    )


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Return slope, height and residual standard deviation of a least-squares line."""
    mean_x, mean_y = fmean(x for x, _ in points), fmean(y for _, y in points)
    wide = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / wide if wide else 0.0
    height = mean_y - slope * mean_x
    squares = sum((y - height - slope * x) ** 2 for x, y in points)
    return slope, height, math.sqrt(squares / max(len(points) - 2, 1))


class HackingAlarm:
    """The course of a training against its power law, and the golden metric against the proxy."""

    name = "hacking"

    def evaluate(self, comparison: Comparison, kit: Kit) -> Diagnosis:
        """Describe the course that the gate judges; the gate itself sounds the alarm."""
        course = read_course(comparison.after / "metrics.jsonl")
        found = find_hacking(course)
        gate = kit.settings.gate
        why = found.is_hacked(gate.max_departure, gate.max_dev_rise)
        figures = found.model_dump(exclude={"n_steps", "is_seen", "golden_falls", "proxy_falls"})
        return Diagnosis(
            evaluator=self.name,
            metrics=figures if found.is_seen else {"golden_rise": found.golden_rise},
            flags=("hacked",) if why else (),
            notes=(why[:1].upper() + why[1:] + "." if why else "No sign of teacher hacking.",),
            columns=("step", "training loss", "loss of rows kept back"),
            rows=_table(course),
        )


def _table(course: Course) -> tuple[tuple[str, ...], ...]:
    """Return the golden metric with the mean training loss since the one before."""
    rows, since = [], 0
    for step, golden in course.golden:
        losses = [loss for at, loss in course.proxy if since < at <= step]
        rows.append((str(step), f"{fmean(losses):.4f}" if losses else "", f"{golden:.4f}"))
        since = step
    return tuple(rows)
