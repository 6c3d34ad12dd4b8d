"""Attention over packs: by blocks of queries on a CPU, else by whole rows.

Whole rows are gathered in groups, attended causally and put back. Right padding inside a group needs no mask:
a causal query never sees what comes after it, and the padded queries' results are not read.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from agentkd.errors import TrainError
from agentkd.train.block import Block, BlockAttention, make_blocks
from agentkd.train.packing import Pack

__all__ = ["MAX_KEPT", "Layout", "packed_attention"]

MAX_KEPT = 3 << 20  # query-key pairs; past them the kept scores would take more memory than they save time
_MAX_GATHERED = 1 << 17  # tokens of one group
_MANY_COPIES = 1.5  # copies of a token in the rows of a pack, past which they are not kept
_UNKNOWN = ("softcap", "s_aux", "position_bias")


class Layout:
    """Where the rows of a pack lie, as tensors on the model's device; made once for all layers."""

    def __init__(self, pack: Pack, device: torch.device, dtype: torch.dtype) -> None:
        """Take a pack, and the device and type of the model."""
        self._pack, self._device, self._dtype = pack, device, dtype
        self._longest = max(len(path) for path in pack.paths)
        self._blocks: dict[int | None, tuple[Block, ...]] = {}

    def window(self, window: int | None) -> int | None:
        """Return the window where it is shorter than some row, else None."""
        return window if window is not None and window < self._longest else None

    def blocks(self, window: int | None) -> tuple[Block, ...] | None:
        """Return the pack in blocks; None off the CPU, and for rows so long that scores must not be kept."""
        if self._device.type != "cpu":
            return None
        if window not in self._blocks:
            self._blocks[window] = make_blocks(self._pack, window, self._dtype)
        blocks = self._blocks[window]
        return blocks if sum(block.n_pairs for block in blocks) <= MAX_KEPT else None

    @functools.cached_property
    def groups(self) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """Rows of similar length and the way back.

        Returns:
            For each group, the packed token of every place, `[row, place]`, padded with token 0; and for each
            packed token, one place in the groups' concatenation that holds it, `[t]`.
        """
        groups, back, start = [], [0] * len(self._pack.tokens), 0
        for paths in self._pack.groups():
            width = len(paths[0])
            for row, path in enumerate(paths):
                for place, token in enumerate(path):
                    back[token] = start + row * width + place
            start += width * len(paths)
            padded = torch.tensor([path + [0] * (width - len(path)) for path in paths], device=self._device)
            n_rows = max(1, _MAX_GATHERED // width)
            groups += [padded[first : first + n_rows] for first in range(0, len(paths), n_rows)]
        return tuple(groups), torch.tensor(back, device=self._device)


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
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    window = layout.window(sliding_window)
    blocks = layout.blocks(window)
    if blocks is None:
        return _attend_rows(query, key, value, layout, scale, window), None
    found: torch.Tensor = BlockAttention.apply(query[0], key[0], value[0], scale, blocks)  # type: ignore[no-untyped-call]
    return found[None], None


def _attend_rows(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    heads, n_tokens, _ = query.shape[1:]
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    groups, back = layout.groups
    is_shared = sum(group.numel() for group in groups) > _MANY_COPIES * n_tokens
    done = []
    for group in groups:
        if is_shared and torch.is_grad_enabled():  # else every row would keep a copy of what it shares
            found = checkpoint(_attend_group, q, k, v, group, scale, window, use_reentrant=False)
        else:
            found = _attend_group(q, k, v, group, scale, window)
        done.append(found)
    return torch.cat(done).index_select(0, back).view(1, n_tokens, heads, -1)


def _attend_group(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    group: torch.Tensor,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    rows, width = group.shape
    q, k, v = (
        states.index_select(0, group.reshape(-1)).view(rows, width, *states.shape[1:]).transpose(1, 2)
        for states in (query, key, value)
    )
    seen = None if window is None else _seen(width, window, q.device)
    mixed = F.scaled_dot_product_attention(
        q, k, v, attn_mask=seen, is_causal=seen is None, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )
    return mixed.transpose(1, 2).reshape(rows * width, -1)


def _seen(width: int, window: int, device: torch.device) -> torch.Tensor:
    """Return which keys each query sees, bool `[width, width]`."""
    return torch.ones(width, width, dtype=torch.bool, device=device).tril().triu(1 - window)
