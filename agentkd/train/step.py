"""One optimiser step: the packs of its rows, the gradient of all terms, the update."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from agentkd.errors import TrainError
from agentkd.files import write_whole
from agentkd.schema import TrainSettings
from agentkd.train import saves
from agentkd.train.anchor import ANCHOR, Anchors
from agentkd.train.batch import Batch
from agentkd.train.body import Body
from agentkd.train.distributed import World
from agentkd.train.feed import Feed
from agentkd.train.lora import adapter_parameters
from agentkd.train.loss import StepScale, Weighted, accumulate, normalisers
from agentkd.train.packing import Pack, deal
from agentkd.train.rows import Row, View

__all__ = ["StepResult", "Stepper", "learning_rate"]


def learning_rate(step: int, n_steps: int, *, peak: float, warmup_share: float) -> float:
    """Return the rate of a step (from 0): linear warm-up, then cosine decay to a tenth of the peak."""
    n_warmup = math.ceil(warmup_share * n_steps)
    if step < n_warmup:
        return peak * (step + 1) / n_warmup
    share = (step - n_warmup) / max(1, n_steps - n_warmup)
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * share)))


@dataclass(frozen=True)
class StepResult:
    """What one step did."""

    terms: dict[str, float]
    """Every term of the loss, without its weight."""
    loss: float
    """What was descended: the sum of the terms times their weights."""
    task_loss: float
    """The part of it that the objectives have; the rest is that of the anchors."""
    grad_norm: float
    """Norm of the gradient before clipping."""
    n_tokens: int
    """Tokens of the rows."""
    n_computed: int
    """Tokens that were computed: those that rows share count once."""
    n_labels: int
    """Trained tokens."""


@dataclass(frozen=True)
class Stepper:
    """Does the steps of one training."""

    settings: TrainSettings
    """How to train."""
    rows: Sequence[Row]
    """All rows."""
    steps: Sequence[Sequence[int]]
    """The rows of every step."""
    body: Body
    """The model."""
    objectives: Sequence[Weighted]
    """The losses."""
    feed: Feed
    """Makes the packs of a step with all that their losses need."""
    chunk_tokens: int
    """Label positions whose logits exist at one time."""
    optimizer: torch.optim.Optimizer
    """Of the adapter."""
    world: World
    """The processes that share the rows of a step."""
    work: Path
    """Where the rows of a step that failed are written."""
    anchors: Anchors | None = None
    """General text on which the student stays near its base; None where it has no weight."""

    def run(self, step: int) -> StepResult:
        """Do one step (from 0); raises TrainError, and names its rows, where a figure is not finite."""
        rows = [self.rows[number] for number in self.steps[step]]
        rate = learning_rate(
            step, len(self.steps), peak=self.settings.learning_rate, warmup_share=self.settings.warmup_share
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        terms, task_loss, n_computed = self._gradient(step, rows)
        parameters = [parameter for _, parameter in adapter_parameters(self.body.model)]
        self.world.sum_gradients(parameters)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.settings.max_grad_norm))
        loss = task_loss + self.settings.anchor.weight * terms.get(ANCHOR, 0.0)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._refuse(step, rows, terms, norm)
        self.optimizer.step()
        n_tokens = sum(row.n_tokens for row in rows)
        n_labels = sum(len(view.labels) for row in rows for view in (row.student, row.rejected) if view)
        return StepResult(terms, loss, task_loss, norm, n_tokens, n_computed, n_labels)

    def _gradient(self, step: int, rows: Sequence[Row]) -> tuple[dict[str, float], float, int]:
        """Add the gradient of this process's rows and anchors to the adapter.

        Returns all terms, the weighted sum of those of the objectives, and computed tokens.
        """
        is_split = self.settings.sharding != "none"
        general = self.anchors.views_of(step) if self.anchors is not None and not is_split else []
        dealt = deal([*map(_read, rows), *([view] for view in general)], self.world.size)
        batches, idle = self._batches(step, rows, dealt)
        sums = self.world.sum_terms(normalisers(self.objectives, batches))
        scale = StepScale(sums, step, len(self.steps), self.chunk_tokens)
        terms: dict[str, float] = defaultdict(float)
        totals = {"task": 0.0, "computed": float(sum(len(batch.pack.tokens) for batch in batches))}
        for batch in batches:
            losses = accumulate(self.body, batch, self.objectives, scale)
            totals["task"] += losses.total
            for name, value in losses.terms.items():
                terms[name] += value
        for pack in idle:
            (self.body.hidden(pack) * 0.0).sum().backward()  # type: ignore[no-untyped-call]
        if self.anchors is not None and is_split:
            terms[ANCHOR] += self.anchors.accumulate(self.body, step, 1 / self.world.size)
        elif self.anchors is not None:
            places = [place - len(rows) for place in dealt[self.world.rank] if place >= len(rows)]
            terms[ANCHOR] += self.anchors.accumulate(self.body, step, places=places)
        totals = self.world.sum_terms(totals)
        return self.world.sum_terms(terms), totals["task"], round(totals["computed"])

    def _batches(
        self, step: int, rows: Sequence[Row], dealt: Sequence[Sequence[int]]
    ) -> tuple[list[Batch], list[Pack]]:
        """Return the batches of this process, and what it runs besides so that all run as many.

        Split weights are gathered by all processes or by none; so is asked a teacher that is made of them.
        """
        own = [[place for place in places if place < len(rows)] for places in dealt]
        if self.settings.sharding == "none":
            return self.feed.batches(rows, step, own[self.world.rank]), []
        parts = [self.feed.batches(rows, step, places) for places in own]
        mine = parts[self.world.rank]
        smallest = min((batch.pack for part in parts for batch in part), key=lambda pack: len(pack.tokens))
        return mine, [smallest] * (max(map(len, parts)) - len(mine))

    def _faulty(self, step: int, rows: Sequence[Row]) -> list[Row]:
        """Return the rows whose loss or gradient is not finite, each computed alone.

        None are where rows cannot be computed by one process, or stand for what the student samples.
        """
        if self.settings.sharding != "none" or self.feed.policy is not None:
            return []
        sums = normalisers(self.objectives, self.feed.batches(rows, step))
        scale = StepScale(sums, step, len(self.steps), self.chunk_tokens)
        found = []
        for row in rows:
            self.optimizer.zero_grad()
            batches = self.feed.batches([row], step)
            loss = sum(accumulate(self.body, batch, self.objectives, scale).total for batch in batches)
            gradients = [p.grad for _, p in adapter_parameters(self.body.model) if p.grad is not None]
            if not math.isfinite(loss) or not all(bool(each.isfinite().all()) for each in gradients):
                found.append(row)
        return found

    def _refuse(self, step: int, rows: Sequence[Row], terms: dict[str, float], norm: float) -> NoReturn:
        file = self.work / "bad-step.json"
        faulty = self._faulty(step, rows) if self.world.is_main else []
        facts = {
            "step": step + 1,
            "terms": {name: repr(value) for name, value in terms.items()},
            "grad_norm": repr(norm),
            "faulty": [row.id for row in faulty],
            "rows": [_facts(row) for row in rows],
        }
        if self.world.is_main:
            write_whole(file, json.dumps(facts, indent=1))
        self.world.wait()  # torchrun ends all where one process ends
        kept = "; the last good save is kept" if saves.latest(self.work) is not None else ""
        raise TrainError(
            f"the loss of step {step + 1} is not finite ({facts['terms']}, gradient norm {norm}); "
            + _blame(faulty, rows),
            hint=f"lower `[train] learning_rate`, or look at the rows in `{file}` and compile without them"
            + kept,
            path=str(file),
        )


def _read(row: Row) -> list[View]:
    """Return what the student reads of a row."""
    return [view for view in (row.student, row.rejected) if view is not None and view.labels]


def _facts(row: Row) -> dict[str, Any]:
    """Return all that a row is made of."""
    views: dict[str, View | None] = {"rejected": row.rejected, "teacher": row.teacher}
    beside = {name: asdict(view) for name, view in views.items() if view is not None}
    return {"id": row.id, **asdict(row.student), **beside}


def _blame(faulty: Sequence[Row], rows: Sequence[Row]) -> str:
    """Say which rows are at fault; where all are, or none is by itself, which there were."""
    if 0 < len(faulty) < len(rows):
        return f"by {_named(faulty)}: each is so by itself, and the other rows are not"
    return f"its rows are {_named(rows)}"


def _named(rows: Sequence[Row]) -> str:
    return ", ".join(f"`{row.id}`" for row in rows[:3]) + (", ..." if len(rows) > 3 else "")
