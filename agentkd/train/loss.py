"""The loss of a pack, chunk by chunk: logits of a few label positions exist at one time.

Each chunk is differentiated at once down to the hidden states; one backward pass through the layers
follows for the whole pack. Every term is divided by what it counts over the *whole optimiser step*, so
neither the size of the chunks nor the number of packs changes the gradient.

Losses on spans and selective losses look at all chunks of a pack once without a graph before: the first to
get every label's log-probability, from which follows the factor of its gradient; the second to find the
labels that are kept. A row is never split between packs, so that both are exact.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from agentkd.plugins import blaming
from agentkd.train.batch import TEACHER, Batch, Chunk, PackSignals, PackSpans, Weighted
from agentkd.train.body import Body
from agentkd.train.objectives.divergence import top_k_forward_kl
from agentkd.train.packing import Pack

__all__ = [
    "TEACHER",
    "Batch",
    "Chunk",
    "Losses",
    "PackSignals",
    "PackSpans",
    "StepScale",
    "Weighted",
    "accumulate",
    "evaluate",
    "normalisers",
]


@dataclass(frozen=True)
class StepScale:
    """What is constant over one optimiser step."""

    normalisers: Mapping[str, float]
    """What the terms of each objective are divided by, by name."""
    step: int
    """Optimiser step, from 0."""
    n_steps: int
    """Optimiser steps of the job."""
    chunk_tokens: int
    """Label positions per chunk."""


def normalisers(objectives: Sequence[Weighted], batches: Sequence[Batch]) -> dict[str, float]:
    """Return what each objective's terms are divided by: its count in a whole step times its mean weight.

    The mean is that of the training, not of the step, so that a light row is light in a step of its own too.
    Labels with a weight are counted, those that are kept for a selective objective, and pairs of spans once.
    """
    counts = {weighted.name: 0 for weighted in objectives}
    for batch in batches:
        for weighted in objectives:
            if not weighted.is_on_spans:
                counts[weighted.name] += _n_labels(weighted, batch)
            elif weighted.name in batch.spans:
                counts[weighted.name] += batch.spans[weighted.name].count()
    return {weighted.name: weighted.mean_weight * counts[weighted.name] for weighted in objectives}


def _n_labels(weighted: Weighted, batch: Batch) -> int:
    """Return how many labels with a weight an objective learns from."""
    seen = batch.seen(weighted)
    if weighted.keep >= 1.0:
        return int((seen & (torch.tensor(batch.pack.weights) > 0)).sum())
    return sum(math.ceil(weighted.keep * len(labels)) for labels in _rows_of(batch, seen))


def _rows_of(batch: Batch, seen: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the seen labels with a weight of each row, ascending."""
    rows = batch.rows()
    seen = seen & (torch.tensor(batch.pack.weights) > 0)
    for row in range(int(rows[-1]) + 1 if len(rows) else 0):
        labels = (seen & (rows == row)).nonzero()[:, 0]
        if len(labels):
            yield labels


@dataclass(frozen=True)
class Losses:
    """What a pack adds to the loss of its step."""

    total: float
    """What is descended: the terms, each times the weight of its objective."""
    terms: dict[str, float]
    """Every term as its objective gave it."""


def accumulate(body: Body, batch: Batch, objectives: Sequence[Weighted], scale: StepScale) -> Losses:
    """Add the gradient of a pack to the adapter; return the pack's share of the losses."""
    return _PackLoss(body, batch, objectives, scale).accumulate()


class _PackLoss:
    """One pack on its way through the losses."""

    def __init__(self, body: Body, batch: Batch, objectives: Sequence[Weighted], scale: StepScale) -> None:
        self.body, self.batch, self.scale = body, batch, scale
        self.on_spans = [w for w in objectives if w.is_on_spans and w.name in batch.spans]
        self.on_tokens = [w for w in objectives if not w.is_on_spans]
        self.seen = {w.name: batch.seen(w) for w in self.on_tokens}
        self.targets = torch.tensor(batch.pack.targets, device=body.device)
        self.weights = torch.tensor(batch.pack.weights, device=body.device)
        self.rows = batch.rows().to(body.device)
        self.terms: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), device=body.device))
        self.total = torch.zeros((), device=body.device)

    def accumulate(self) -> Losses:
        hidden = self.body.hidden(self.batch.pack)
        leaf, gradient = hidden.detach(), torch.zeros_like(hidden)
        factors = self._look(leaf)
        for part, place in self._parts(self._wanted(self.on_tokens)):
            states = leaf[place].clone().requires_grad_()
            total = self._loss(states, part, place, factors)
            if total.requires_grad:
                total.backward()  # type: ignore[no-untyped-call]
                if states.grad is not None:
                    gradient[place] = states.grad
        hidden.backward(gradient)  # type: ignore[no-untyped-call]
        return Losses(float(self.total), {name: float(value) for name, value in self.terms.items()})

    def _wanted(self, on_tokens: Sequence[Weighted]) -> torch.Tensor:
        """Return the labels that these losses or one on spans are about, ascending, on the CPU."""
        wanted = torch.zeros(len(self.targets), dtype=torch.bool)
        for weighted in on_tokens:
            wanted |= self.seen[weighted.name]
        for weighted in self.on_spans:
            wanted |= self.batch.spans[weighted.name].span_of.cpu() >= 0
        return wanted.nonzero()[:, 0]

    def _parts(self, wanted: torch.Tensor) -> Iterator[tuple[torch.Tensor, slice | torch.Tensor]]:
        """Yield chunks of labels: their numbers on the CPU, and how to index tensors of the pack by them."""
        is_whole = len(wanted) == len(self.targets)
        start = 0
        for part in self._cut(wanted):
            yield part, slice(start, start + len(part)) if is_whole else part.to(self.body.device)
            start += len(part)

    def _cut(self, wanted: torch.Tensor) -> Iterator[torch.Tensor]:
        """Cut labels into chunks; at the borders of rows where a loss needs whole ones."""
        size = self.scale.chunk_tokens
        if not any(getattr(w.objective, "whole_rows", False) for w in self.on_tokens):
            yield from (wanted[start : start + size] for start in range(0, len(wanted), size))
            return
        lengths = torch.unique_consecutive(self.rows.cpu()[wanted], return_counts=True)[1].tolist()
        start = end = 0
        for length in lengths:
            if end > start and end + length - start > size:
                yield wanted[start:end]
                start = end
            end += length
        if end > start:
            yield wanted[start:end]

    @torch.no_grad()
    def _look(self, leaf: torch.Tensor) -> torch.Tensor | None:
        """Choose what selective losses keep; return the factor of each label's log-probability, `[n]`."""
        selective = [w for w in self.on_tokens if w.keep < 1.0]
        if not selective and not self.on_spans:
            return None
        log_probs = torch.zeros(len(self.targets), device=self.body.device)
        scores = {w.name: torch.zeros(len(self.targets)) for w in selective}
        for part, place in self._parts(self._wanted(selective)):
            logits = self.body.logits(leaf[place])
            if self.on_spans:
                said = logits.log_softmax(-1).gather(1, self.targets[place, None])[:, 0]
                log_probs[place] = said.float()
            for weighted in selective:
                self._score(weighted, logits, leaf[place], part, place, scores[weighted.name])
        for weighted in selective:
            self.seen[weighted.name] = self._kept(weighted, scores[weighted.name])
        return self._span_factors(log_probs) if self.on_spans else None

    def _score(
        self,
        weighted: Weighted,
        logits: torch.Tensor,
        states: torch.Tensor,
        part: torch.Tensor,
        place: slice | torch.Tensor,
        scores: torch.Tensor,
    ) -> None:
        chunk = self._chunk(weighted, logits, states, part, place)
        if chunk is not None:
            with blaming(weighted.plugin, f"objective `{weighted.name}`"):
                found = weighted.objective.scores(chunk)
            scores[part[self.seen[weighted.name][part]]] = found.float().cpu()

    def _kept(self, weighted: Weighted, scores: torch.Tensor) -> torch.Tensor:
        """Return the labels of each row with the largest scores; of equal ones the earlier."""
        kept = torch.zeros(len(self.targets), dtype=torch.bool)
        for labels in _rows_of(self.batch, self.seen[weighted.name]):
            best = scores[labels].sort(descending=True, stable=True).indices
            kept[labels[best[: math.ceil(weighted.keep * len(labels))]]] = True
        return kept

    def _span_factors(self, log_probs: torch.Tensor) -> torch.Tensor:
        """Return the gradient of the span losses by each label's log-probability, `[n]`."""
        factors = torch.zeros_like(log_probs)
        for weighted in self.on_spans:
            spans = self.batch.spans[weighted.name]
            is_in = spans.span_of >= 0
            owner, share = spans.span_of[is_in], spans.factors[is_in]
            sums = torch.zeros_like(spans.n_labels, dtype=log_probs.dtype)
            log_q = sums.index_add_(0, owner, share * log_probs[is_in]).requires_grad_()
            with torch.enable_grad():
                total = self._span_loss(weighted, log_q, spans)
                (gradient,) = torch.autograd.grad(total, log_q) if total.requires_grad else (None,)
            if gradient is not None:
                factors[is_in] += weighted.weight * share * gradient[owner]
        return factors

    def _span_loss(self, weighted: Weighted, log_q: torch.Tensor, spans: PackSpans) -> torch.Tensor:
        scale = self.scale
        context = spans.context(scale.normalisers[weighted.name], scale.step, scale.n_steps)
        with blaming(weighted.plugin, f"objective `{weighted.name}`"):
            losses = weighted.objective.spans(log_q, context)
        total = self._sum(losses, 1.0)
        self.total = self.total + weighted.weight * total.detach()
        return total

    def _sum(self, losses: Mapping[str, torch.Tensor], weight: float) -> torch.Tensor:
        """Add the losses to the terms; return their weighted sum."""
        total = torch.zeros((), device=self.body.device)
        for name, loss in losses.items():
            self.terms[name] = self.terms[name] + loss.detach().float()
            total = total + weight * loss.float()
        return total

    def _loss(
        self,
        states: torch.Tensor,
        part: torch.Tensor,
        place: slice | torch.Tensor,
        factors: torch.Tensor | None,
    ) -> torch.Tensor:
        logits = self.body.logits(states)
        total = torch.zeros((), device=self.body.device)
        for weighted in self.on_tokens:
            chunk = self._chunk(weighted, logits, states, part, place)
            if chunk is not None:
                with blaming(weighted.plugin, f"objective `{weighted.name}`"):
                    losses = weighted.objective.forward(chunk)
                total = total + self._sum(losses, weighted.weight)
        self.total = self.total + total.detach()
        if factors is not None:
            # a loss whose gradient by each label's log-probability is the label's factor
            ids = self.targets[place, None]
            certain = torch.zeros(ids.shape, dtype=logits.dtype, device=ids.device)
            total = total + top_k_forward_kl(logits, ids, certain, -factors[place])
        return total

    def _chunk(
        self,
        weighted: Weighted,
        logits: torch.Tensor,
        states: torch.Tensor,
        part: torch.Tensor,
        place: slice | torch.Tensor,
    ) -> Chunk | None:
        """Return what an objective sees of a chunk; None where it sees nothing."""
        seen = self.seen[weighted.name][part]
        if not bool(seen.any()):
            return None
        kept: torch.Tensor | None = None
        if not bool(seen.all()):
            kept = seen.nonzero()[:, 0].to(self.body.device)

        def cut(whole: torch.Tensor | None) -> torch.Tensor | None:
            return None if whole is None else inner(whole[place])

        def inner(chunk: torch.Tensor) -> torch.Tensor:
            return chunk if kept is None else chunk[kept]

        needs, signals = weighted.objective.requires, self.batch.signals if weighted.needs_teacher else None
        wants_hidden = "teacher-hidden" in needs
        return Chunk(
            logits=inner(logits),
            targets=inner(self.targets[place]),
            weights=inner(self.weights[place]),
            normaliser=self.scale.normalisers[weighted.name],
            rows=inner(self.rows[place]),
            teacher_top_ids=cut(signals.top_ids) if signals else None,
            teacher_top_log_probs=cut(signals.log_probs) if signals else None,
            step=self.scale.step,
            n_steps=self.scale.n_steps,
            hidden=inner(states) if wants_hidden else None,
            teacher_hidden=cut(signals.hidden) if signals and wants_hidden else None,
            reference_loss=cut(self.batch.references.get(weighted.name)),
        )


@torch.inference_mode()
def evaluate(body: Body, packs: Sequence[Pack], chunk_tokens: int) -> float:
    """Return the weighted mean negative log-likelihood of the packs' labels, in nats per token."""
    total = weight_sum = 0.0
    for pack in packs:
        hidden = body.hidden(pack)
        targets = torch.tensor(pack.targets, device=body.device)
        weights = torch.tensor(pack.weights, device=body.device)
        for start in range(0, len(targets), chunk_tokens):
            part = slice(start, start + chunk_tokens)
            log_probs = body.logits(hidden[part]).log_softmax(-1)
            said = log_probs.gather(1, targets[part, None])[:, 0]
            total -= float((said * weights[part]).sum())
        weight_sum += sum(pack.weights)
    return total / weight_sum
