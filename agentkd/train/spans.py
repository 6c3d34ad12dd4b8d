"""Spans of completions: what preference losses sum log-probabilities over."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from agentkd.train.batch import PackSpans
from agentkd.train.packing import Pack

__all__ = ["completion_spans"]


def completion_spans(
    pack: Pack, origins: Sequence[int], is_rejected: Sequence[bool], device: torch.device
) -> PackSpans | None:
    """Return one span per completion of the rows that have a rejected one; None where the pack has none.

    A label counts by its weight over the largest weight of its pair: what weighs a tenth in the row weighs a
    tenth in the sum, and what both completions begin with counts alike in both. The span's own weight is that
    largest weight, the same for both.

    Args:
        pack: The packed views.
        origins: For each view as packed, the row of the step that it belongs to.
        is_rejected: For each view as packed, whether it is a rejected completion.
        device: Where the tensors go.
    """
    top: dict[int, float] = {}
    for (number, _), weight in zip(pack.labels, pack.weights, strict=True):
        top[origins[number]] = max(top.get(origins[number], 0.0), weight)
    views = dict.fromkeys(number for number, _ in pack.labels)
    sides: dict[int, int] = {}
    for number in views:
        sides[origins[number]] = sides.get(origins[number], 0) + 1
    with_rejected = {origins[number] for number in views if is_rejected[number]}
    numbers = [number for number in views if origins[number] in with_rejected]
    if not numbers:
        return None
    place = {number: span for span, number in enumerate(numbers)}
    pair = {origin: n for n, origin in enumerate(o for o in sides if sides[o] == 2 and o in with_rejected)}
    factors = [
        weight / top[origins[number]] if number in place else 0.0
        for (number, _), weight in zip(pack.labels, pack.weights, strict=True)
    ]
    sums = [0.0] * len(numbers)
    for (number, _), factor in zip(pack.labels, factors, strict=True):
        if number in place:
            sums[place[number]] += factor
    return PackSpans(
        span_of=torch.tensor([place.get(number, -1) for number, _ in pack.labels], device=device),
        factors=torch.tensor(factors, device=device),
        n_labels=torch.tensor(sums, device=device),
        weights=torch.tensor([top[origins[number]] for number in numbers], device=device),
        pair=torch.tensor([pair.get(origins[number], -1) for number in numbers], device=device),
        is_rejected=torch.tensor([is_rejected[number] for number in numbers], device=device),
    )
