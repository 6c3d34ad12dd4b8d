"""Attention of a pack on a CPU: every packed token is a query once, in blocks that share their keys.

A block is a stretch of the pack. Its keys are the tokens on the paths of its rows, so a prefix that many rows
share is neither attended again nor copied for each of them. Scores are kept for the backward pass: plain
matrix products in bf16 take a half to a third of the time of torch's flash kernel for CPUs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from agentkd.train.packing import BLOCK, Pack

__all__ = ["Block", "BlockAttention", "make_blocks"]

_SLACK = 1.3  # pairs that a merged block may compute for each pair that its rows need
_SMALL = 8192  # pairs that cost less than one more block


@dataclass(frozen=True)
class Block:
    """Queries that attend together."""

    start: int
    """First packed token of the queries."""
    end: int
    """Packed token after the last query."""
    keys: torch.Tensor
    """Packed tokens that some query sees, ascending, `[m]`; those that all see come first."""
    bias: torch.Tensor
    """0 where a query sees one of the last `p` keys, else -inf, `[n, p]`."""

    @property
    def n_pairs(self) -> int:
        """Scores that the block computes for each head."""
        return (self.end - self.start) * len(self.keys)


class _Part(NamedTuple):
    """The queries of one row in a block: places `first` to `last` of its path."""

    path: Sequence[int]
    first: int
    last: int
    n_shared: int
    """Places that the row has in common with the row before it."""


def make_blocks(pack: Pack, window: int | None, dtype: torch.dtype) -> tuple[Block, ...]:
    """Cut a pack into blocks; a query sees `window` tokens, itself included, or all before it."""
    blocks, parts = [], list[_Part]()
    for part in _parts(pack):
        if parts and not _may_join(parts, part):
            blocks.append(_block(parts, window, dtype))
            parts = []
        parts.append(part)
    blocks.append(_block(parts, window, dtype))
    return tuple(blocks)


def _parts(pack: Pack) -> Iterator[_Part]:
    n_seen = 0
    for path in pack.paths:
        n_shared = len(path) - max(0, path[-1] + 1 - n_seen)
        for first in range(n_shared, len(path), BLOCK):
            yield _Part(path, first, min(first + BLOCK, len(path)), n_shared)
        n_seen = max(n_seen, path[-1] + 1)


def _may_join(parts: Sequence[_Part], part: _Part) -> bool:
    """Whether one block over all is about as cheap as two, and no larger than a block may be."""
    n = sum(last - first for _, first, last, _ in parts)
    n_more = part.last - part.first
    if n + n_more > BLOCK:
        return False
    m = len(_keys(parts))
    apart = n * m + n_more * part.last
    return (n + n_more) * len(_keys([*parts, part])) <= _SLACK * apart + _SMALL


def _keys(parts: Sequence[_Part]) -> list[int]:
    if len(parts) == 1:
        return list(parts[0].path[: parts[0].last])
    return sorted(set().union(*(part.path[: part.last] for part in parts)))


def _block(parts: Sequence[_Part], window: int | None, dtype: torch.dtype) -> Block:
    start, end = parts[0].path[parts[0].first], parts[-1].path[parts[-1].last - 1] + 1
    keys, n_common = _keys(parts), min([parts[0].first, *(part.n_shared for part in parts[1:])])
    column = {token: place for place, token in enumerate(keys)}
    is_seen = torch.zeros(end - start, len(keys), dtype=torch.bool)
    for part in parts:
        rows = slice(part.path[part.first] - start, part.path[part.last - 1] + 1 - start)
        seen = torch.ones(part.last - part.first, part.last, dtype=torch.bool).tril(part.first)
        if window is not None:
            seen = seen.triu(part.first + 1 - window)
        is_seen[rows, torch.tensor([column[token] for token in part.path[: part.last]])] = seen
    if window is not None:
        kept = is_seen.any(0)
        n_common = int((is_seen.all(0) & kept).cumprod(0).sum()) if bool(kept[0]) else 0
        keys, is_seen = torch.tensor(keys)[kept].tolist(), is_seen[:, kept]
    bias = torch.zeros(end - start, len(keys) - n_common, dtype=dtype)
    bias.masked_fill_(~is_seen[:, n_common:], float("-inf"))
    return Block(start, end, torch.tensor(keys), bias)


class BlockAttention(torch.autograd.Function):
    """Attention over blocks with its gradient, `[head, t, dim]` -> `[t, head, dim]`."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, blocks: tuple[Block, ...]
    ) -> torch.Tensor:
        """Attend; `k` and `v` have the key-value heads, of which each serves as many query heads."""
        heads, n_tokens, _ = q.shape
        found = q.new_empty(n_tokens, heads, v.shape[2])
        kept = []
        for block in blocks:
            asked, keys, values = _inputs(q, k, v, scale, block)
            scores = torch.bmm(asked, keys.transpose(1, 2)).view(heads, block.end - block.start, -1)
            scores[:, :, scores.shape[2] - block.bias.shape[1] :] += block.bias
            shares = scores.softmax(-1).view(len(k), -1, scores.shape[2])
            said = torch.bmm(shares, values).view(heads, -1, v.shape[2])
            found[block.start : block.end] = said.transpose(0, 1)
            kept.append(shares)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.scale, ctx.blocks = scale, blocks
        return found

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of q, k and v; those of keys and values are summed in float32 or better."""
        q, k, v, *kept = ctx.saved_tensors
        exact = torch.promote_types(k.dtype, torch.float32)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k, dtype=exact), torch.zeros_like(v, dtype=exact)
        for block, shares in zip(ctx.blocks, kept, strict=True):
            asked, keys, values = _inputs(q, k, v, ctx.scale, block)
            part = slice(block.start, block.end)
            dy = grads[0][part].transpose(0, 1).reshape(len(k), -1, v.shape[2])
            dscores = torch.ops.aten._softmax_backward_data(
                torch.bmm(dy, values.transpose(1, 2)), shares, -1, shares.dtype
            )
            dq[:, part] = torch.bmm(dscores, keys).view(len(q), -1, q.shape[2]) * ctx.scale
            dk.index_add_(1, block.keys, torch.bmm(dscores.transpose(1, 2), asked).to(exact))
            dv.index_add_(1, block.keys, torch.bmm(shares.transpose(1, 2), dy).to(exact))
        return dq, dk.to(k.dtype), dv.to(v.dtype), None, None


def _inputs(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, block: Block
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return scaled queries `[kv, group * n, dim]`, keys and values `[kv, m, dim]`."""
    asked = (q[:, block.start : block.end] * scale).reshape(len(k), -1, q.shape[2])
    return asked, k.index_select(1, block.keys), v.index_select(1, block.keys)
