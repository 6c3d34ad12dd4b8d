"""Attention over packs: whole rows are gathered, attended causally and put back.

Right padding inside a group needs no mask: a causal query never sees what comes after it, and the padded
queries' results are not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from agentkd.errors import TrainError
from agentkd.train.packing import BLOCK, Pack

__all__ = ["Layout", "packed_attention"]

_LONGEST_BY_BLOCKS = 2048  # past it the kept scores would take more memory than they save time
_UNKNOWN = ("softcap", "s_aux", "position_bias")


@dataclass(frozen=True)
class Layout:
    """Where the rows of a pack lie, as tensors on the model's device."""

    groups: tuple[torch.Tensor, ...]
    """For each group, the packed token of every place, `[row, place]`; padded with token 0."""
    back: torch.Tensor
    """For each packed token, one place in the groups' concatenation that holds it, `[t]`."""

    @classmethod
    def of(cls, pack: Pack, device: torch.device) -> Layout:
        """Lay a pack out."""
        groups, back, start = [], [0] * len(pack.tokens), 0
        for paths in pack.groups():
            width = len(paths[0])
            padded = [path + [0] * (width - len(path)) for path in paths]
            for row, path in enumerate(paths):
                for place, token in enumerate(path):
                    back[token] = start + row * width + place
            start += width * len(paths)
            groups.append(torch.tensor(padded, device=device))
        return cls(tuple(groups), torch.tensor(back, device=device))


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    layout: Layout | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within rows; an attention function as transformers calls it.

    Args:
        module: The attention layer (not used).
        query: `[1, head, t, dim]`; key and value have the key-value heads.
        key: See `query`.
        value: See `query`.
        attention_mask: Not used; rows are causal.
        layout: Where the rows lie; raises TrainError where the model does not hand it on.
        scaling: Factor of the scores.
        sliding_window: How many tokens a query sees, itself included; None for all.
        others: What else the model passes; raises TrainError for what changes the scores.

    Returns:
        `[1, t, head, dim]` and no weights.
    """
    strange = [name for name in _UNKNOWN if others.get(name) is not None]
    if layout is None or strange:
        raise TrainError(f"this model's attention cannot be packed ({strange or 'it drops keywords'})")
    heads, n_tokens, dim = query.shape[1:]
    scale = dim**-0.5 if scaling is None else scaling
    flat = [states[0].transpose(0, 1).reshape(n_tokens, -1) for states in (query, key, value)]
    done = []
    for group in layout.groups:
        rows, width = group.shape
        q, k, v = (
            states.index_select(0, group.view(-1)).view(rows, width, -1, size).transpose(1, 2)
            for states, size in zip(flat, (dim, dim, value.shape[3]), strict=True)
        )
        mixed = _attend(q, k, v, scale, sliding_window)
        done.append(mixed.transpose(1, 2).reshape(rows * width, -1))
    packed = torch.cat(done).index_select(0, layout.back)
    return packed.view(1, n_tokens, heads, -1), None


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int | None
) -> torch.Tensor:
    width = q.shape[2]
    is_windowed = window is not None and window < width
    seen = _seen(width, window if is_windowed else None, q.device)
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and width <= _LONGEST_BY_BLOCKS:
        # torch's bf16 flash kernel for CPUs takes 2 to 3 times as long as plain matrix products
        blocks = [
            _attend_block(q[:, :, start : start + BLOCK] * scale, k, v, seen[start : start + BLOCK], start)
            for start in range(0, width, BLOCK)
        ]
        return torch.cat(blocks, dim=2)
    mask = seen if is_windowed else None
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )


def _attend_block(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor, start: int
) -> torch.Tensor:
    """Attend from the scaled queries of one block to all keys up to the block's end."""
    rows, heads, n, dim = q.shape
    kv_heads, end = k.shape[1], start + n
    scores = (q.reshape(rows, kv_heads, -1, dim) @ k[:, :, :end].transpose(-1, -2)).view(rows, heads, n, end)
    bias = torch.zeros(n, end, dtype=q.dtype).masked_fill_(~seen[:, :end], float("-inf"))
    shares = scores.add_(bias).softmax(-1).view(rows, kv_heads, -1, end)
    return (shares @ v[:, :, :end]).view(rows, heads, n, -1)


def _seen(width: int, window: int | None, device: torch.device) -> torch.Tensor:
    """Return which keys each query sees, bool `[width, width]`."""
    seen = torch.ones(width, width, dtype=torch.bool, device=device).tril()
    return seen if window is None else seen.triu(1 - window)
