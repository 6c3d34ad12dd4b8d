"""The anchor: how much worse a student says general texts than its base, as the gate measures it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def anchor_losses(base: Path, adapters: Sequence[Path | None]) -> list[float]:
    """Return the mean cross-entropy per token, in nats, of the base (None) or of it with an adapter."""
    import torch

    from agentkd import hf
    from agentkd.hf.anchor import anchor_rows, log_probs

    rows = anchor_rows(hf.load_tokenizer(base))
    losses = []
    for folder in adapters:
        if folder is not None:
            losses.append(hf.measure_anchors(base, folder).student)
            continue
        model: Any = hf.load_model(base, dtype="float32")
        total = n = 0.0
        with torch.inference_mode():
            for ids, first in rows:
                tokens = torch.tensor([ids], device=model.device)
                total -= float(log_probs(model, tokens, first).gather(-1, tokens[0, first:, None]).sum())
                n += len(ids) - first
        losses.append(total / n)
    return losses
