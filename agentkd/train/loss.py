"""The loss of a pack, chunk by chunk: logits of a few label positions exist at one time.

Each chunk is differentiated at once down to the hidden states; one backward pass through the layers
follows for the whole pack. Every term is divided by its own weight sum over the *whole optimiser step*, so
neither the size of the chunks nor the number of packs changes the gradient.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from agentkd.plugins import blaming
from agentkd.protocols import Objective
from agentkd.train.body import Body
from agentkd.train.packing import Pack

__all__ = ["Chunk", "PackSignals", "Weighted", "accumulate", "evaluate", "normalisers"]

TEACHER = "teacher-top-k"


@dataclass
class Chunk:
    """Some label positions of a pack; see `agentkd.protocols.StepContext` for every field."""

    logits: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    normaliser: float
    rows: torch.Tensor
    teacher_top_ids: torch.Tensor | None
    teacher_top_log_probs: torch.Tensor | None
    step: int
    n_steps: int
    hidden: torch.Tensor | None = None
    teacher_hidden: torch.Tensor | None = None


@dataclass(frozen=True)
class Weighted:
    """An objective with its weight in the sum and the plugin that answers for it."""

    objective: Objective
    weight: float
    plugin: str

    @property
    def needs_teacher(self) -> bool:
        """Whether it sees only labels that have teacher signals."""
        return TEACHER in self.objective.requires


@dataclass(frozen=True)
class PackSignals:
    """Teacher signals of a pack's labels; rows without a teacher are masked out."""

    top_ids: torch.Tensor
    """Top token ids, int64 `[n, k]`."""
    log_probs: torch.Tensor
    """Their log-probabilities, float32 `[n, k]`."""
    has_teacher: torch.Tensor
    """Which labels have signals, bool `[n]`."""


@dataclass(frozen=True)
class StepScale:
    """What is constant over one optimiser step."""

    normalisers: Mapping[str, float]
    """Weight sum of the step for each objective by name."""
    step: int
    """Optimiser step, from 0."""
    n_steps: int
    """Optimiser steps of the job."""
    chunk_tokens: int
    """Label positions per chunk."""


def normalisers(
    objectives: Sequence[Weighted], weights: Sequence[float], has_teacher: Sequence[bool]
) -> dict[str, float]:
    """Return each objective's weight sum over a step, from the labels' weights and teacher flags."""
    every = sum(weights)
    taught = sum(weight for weight, has in zip(weights, has_teacher, strict=True) if has)
    return {w.objective.name: taught if w.needs_teacher else every for w in objectives}


def accumulate(
    body: Body, pack: Pack, signals: PackSignals | None, objectives: Sequence[Weighted], scale: StepScale
) -> dict[str, float]:
    """Add the gradient of a pack to the adapter; return the pack's share of each term."""
    hidden = body.hidden(pack)
    leaf, gradient = hidden.detach(), torch.zeros_like(hidden)
    targets = torch.tensor(pack.targets, device=body.device)
    weights = torch.tensor(pack.weights, device=body.device)
    numbers = torch.tensor([number for number, _ in pack.labels], device=body.device)
    terms: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), device=body.device))
    for start in range(0, len(targets), scale.chunk_tokens):
        part = slice(start, start + scale.chunk_tokens)
        states = leaf[part].clone().requires_grad_()
        logits = body.logits(states)
        total = torch.zeros((), device=body.device)
        for weighted in objectives:
            chunk = _chunk(
                weighted, logits, targets[part], weights[part], numbers[part], _cut(signals, part), scale
            )
            if chunk is None:
                continue
            with blaming(weighted.plugin, f"objective `{weighted.objective.name}`"):
                losses = weighted.objective.forward(chunk)
            for name, loss in losses.items():
                terms[name] = terms[name] + loss.detach().float()
                total = total + weighted.weight * loss.float()
        if total.requires_grad:
            total.backward()  # type: ignore[no-untyped-call]
            if states.grad is not None:
                gradient[part] = states.grad
    hidden.backward(gradient)  # type: ignore[no-untyped-call]
    return {name: float(value) for name, value in terms.items()}


def _cut(signals: PackSignals | None, part: slice) -> PackSignals | None:
    if signals is None:
        return None
    return PackSignals(signals.top_ids[part], signals.log_probs[part], signals.has_teacher[part])


def _chunk(
    weighted: Weighted,
    logits: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    rows: torch.Tensor,
    signals: PackSignals | None,
    scale: StepScale,
) -> Chunk | None:
    normaliser = scale.normalisers[weighted.objective.name]
    if not weighted.needs_teacher:
        return Chunk(logits, targets, weights, normaliser, rows, None, None, scale.step, scale.n_steps)
    if signals is None or not bool(signals.has_teacher.any()):
        return None
    top_ids, log_probs = signals.top_ids, signals.log_probs
    if not bool(signals.has_teacher.all()):
        kept = signals.has_teacher.nonzero()[:, 0]
        logits, targets, weights, rows = logits[kept], targets[kept], weights[kept], rows[kept]
        top_ids, log_probs = top_ids[kept], log_probs[kept]
    return Chunk(logits, targets, weights, normaliser, rows, top_ids, log_probs, scale.step, scale.n_steps)


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
