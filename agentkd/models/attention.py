"""Attention over rows of cached keys and values, and over heads that rows share.

Axes in names: `n` flat tokens, `k` key-value heads, `g` query heads per key-value head, `d` head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from agentkd.models.network import Head, Piece

__all__ = ["Plan", "Rows", "attend"]

_ROOM = 64  # rows grow in steps of this many tokens, and short rows are attended to in such steps
_QUERY_STEP = (
    8  # the kernel adds in another order for the last odd queries: results would depend on the batch
)
_KEEP_BYTES = 1 << 30  # an empty cache larger than this is given back


class _Shaped(Protocol):
    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...


@dataclass(frozen=True)
class _Together:
    """Slots `low:high` in which rows grow by one token each; slots between that do not grow are ignored."""

    low: int
    high: int
    n_columns: int
    tokens: torch.Tensor
    """Flat token of each slot, 0 where there is none, `[slots]`."""
    back: torch.Tensor
    """Slot (from `low`) of each flat token."""
    mask: torch.Tensor
    """0 where a slot's query sees a column, else -inf, `[slots, 1, g (and some more), columns]`."""


@dataclass(frozen=True)
class _Apart:
    """One long row: its slot, tokens before, flat tokens `start:stop`, mask where there are tokens before."""

    slot: int
    n_before: int
    start: int
    stop: int
    mask: torch.Tensor | None


@dataclass(frozen=True)
class Plan:
    """Where the flat tokens of one forward pass belong."""

    rows: Rows
    positions: torch.Tensor
    """Position of each token in its text, `[n]`."""
    slots: torch.Tensor
    """Slot of each token, `[n]`."""
    columns: torch.Tensor
    """Column of each token in its slot, `[n]`."""
    wanted: torch.Tensor
    """Flat tokens whose logits are wanted."""
    n_logits: tuple[int, ...]
    """How many of them belong to each piece."""
    together: _Together | None
    """How the first tokens see their own rows: those of rows that grow by one."""
    apart: tuple[_Apart, ...]
    """How the other tokens see their own rows."""
    heads: tuple[tuple[Head, torch.Tensor | None], ...]
    """Heads and the flat tokens behind each; None stands for all tokens."""

    def store(self, layer: int, keys_nkd: torch.Tensor, values_nkd: torch.Tensor) -> None:
        """Write the tokens' keys and values into their slots."""
        self.rows.keys[layer][self.slots, :, self.columns] = keys_nkd
        self.rows.values[layer][self.slots, :, self.columns] = values_nkd


class Rows:
    """Preallocated keys and values `[layers, slots, k, columns, d]`; used slots always come first."""

    def __init__(self, network: _Shaped) -> None:
        self._network = network
        self._slots: dict[int, int] = {}
        self._owners: list[int] = []
        self._lengths: list[int] = []
        self._heads: list[Head | None] = []
        self._next_row = 0
        self._allocate(0, 0)

    def open(self, head: Head | None, room: int) -> int:
        """Open an empty row behind `head` and return its number."""
        self._next_row += 1
        slot = len(self._owners)
        self._grow(slot + 1, room)
        self._slots[self._next_row] = slot
        self._owners.append(self._next_row)
        self._lengths.append(0)
        self._heads.append(head)
        return self._next_row

    @torch.inference_mode()  # the cache may have grown, and so been made, inside of it
    def close(self, row: int) -> None:
        """Give a row back; the last slot moves into the gap."""
        slot, last = self._slots.pop(row), len(self._owners) - 1
        if slot != last:
            n = self._lengths[last]
            self.keys[:, slot, :, :n] = self.keys[:, last, :, :n]
            self.values[:, slot, :, :n] = self.values[:, last, :, :n]
            self._owners[slot], self._lengths[slot] = self._owners[last], n
            self._heads[slot] = self._heads[last]
            self._slots[self._owners[slot]] = slot
        del self._owners[last], self._lengths[last], self._heads[last]
        if not self._owners and self.keys.nbytes + self.values.nbytes > _KEEP_BYTES:
            self._allocate(0, 0)

    def copy_out(self, row: int) -> torch.Tensor:
        """Return the keys and values of a row, `[layers, 2, k, length, d]`."""
        slot = self._slots[row]
        n = self._lengths[slot]
        return torch.stack((self.keys[:, slot, :, :n], self.values[:, slot, :, :n]), dim=1)

    def advance(self, pieces: Sequence[Piece]) -> None:
        """Count the pieces' tokens as cached."""
        for piece in pieces:
            self._lengths[self._slots[piece.row]] += len(piece.ids)

    def plan(self, pieces: Sequence[Piece], n_groups: int) -> Plan:
        """Lay out one forward pass over the pieces, those of one token first.

        `n_groups` query heads share a key-value head.
        """
        slots = [self._slots[piece.row] for piece in pieces]
        for slot, piece in zip(slots, pieces, strict=True):
            self._grow(slot + 1, self._lengths[slot] + len(piece.ids))
        positions: list[int] = []
        columns: list[int] = []
        wanted: list[int] = []
        behind: dict[Head, list[int]] = {}
        for slot, piece in zip(slots, pieces, strict=True):
            start, before, n = len(columns), self._lengths[slot], len(piece.ids)
            head = self._heads[slot]
            offset = before + (len(head.ids) if head else 0)
            columns.extend(range(before, before + n))
            positions.extend(range(offset, offset + n))
            wanted.extend(range(start + n - piece.n_logits, start + n))
            if head:
                behind.setdefault(head, []).extend(range(start, start + n))
        n_single = sum(len(piece.ids) == 1 for piece in pieces)
        return Plan(
            rows=self,
            positions=self._tensor(positions),
            slots=self._tensor([slot for slot, piece in zip(slots, pieces, strict=True) for _ in piece.ids]),
            columns=self._tensor(columns),
            wanted=self._tensor(wanted),
            n_logits=tuple(piece.n_logits for piece in pieces),
            together=self._together(slots[:n_single], n_groups) if n_single else None,
            apart=self._apart(n_single, slots[n_single:], pieces[n_single:], n_groups),
            heads=tuple(
                (head, None if len(tokens) == len(columns) else self._tensor(tokens))
                for head, tokens in behind.items()
            ),
        )

    def _together(self, slots: Sequence[int], n_groups: int) -> _Together:
        low, high = min(slots), max(slots) + 1
        longest = max(self._lengths[slot] for slot in slots) + 1
        n_columns = min(-(-longest // _ROOM) * _ROOM, self.keys.shape[3])
        tokens, last = [0] * (high - low), [0] * (high - low)
        for token, slot in enumerate(slots):
            tokens[slot - low], last[slot - low] = token, self._lengths[slot]
        columns = torch.arange(n_columns, device=self._network.device)
        mask = torch.zeros((high - low, n_columns), dtype=self._network.dtype, device=self._network.device)
        mask.masked_fill_(columns > self._tensor(last).unsqueeze(1), float("-inf"))
        mask = _even(mask[:, None, None].expand(-1, 1, n_groups, -1))
        back = self._tensor([slot - low for slot in slots])
        return _Together(low, high, n_columns, self._tensor(tokens), back, mask)

    def _apart(
        self, start: int, slots: Sequence[int], pieces: Sequence[Piece], n_groups: int
    ) -> tuple[_Apart, ...]:
        found = []
        for slot, piece in zip(slots, pieces, strict=True):
            before, n = self._lengths[slot], len(piece.ids)
            mask = None
            if before:
                mask = torch.full((n, before + n), float("-inf"), dtype=self._network.dtype)
                mask = mask.triu_(before + 1).to(self._network.device).repeat_interleave(n_groups, dim=0)
            found.append(_Apart(slot, before, start, start + n, mask))
            start += n
        return tuple(found)

    def _tensor(self, values: Sequence[object]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._network.device)

    def _allocate(self, n_slots: int, n_columns: int) -> None:
        n_layers, n_kv, size = self._network.shape
        shape = (n_layers, n_slots, n_kv, n_columns, size)
        # Zeros: columns that are masked out still take part in the arithmetic.
        self.keys = torch.zeros(shape, dtype=self._network.dtype, device=self._network.device)
        self.values = torch.zeros_like(self.keys)

    def _grow(self, n_slots: int, n_columns: int) -> None:
        old_keys, old_values = self.keys, self.values
        had_slots, had_columns = old_keys.shape[1], old_keys.shape[3]
        if n_slots <= had_slots and n_columns <= had_columns:
            return
        n_slots = max(had_slots, 1 << (n_slots - 1).bit_length())
        self._allocate(n_slots, max(had_columns, -(-n_columns // _ROOM) * _ROOM))
        used = len(self._owners)
        self.keys[:, :used, :, :had_columns] = old_keys[:, :used]
        self.values[:, :used, :, :had_columns] = old_values[:, :used]


def attend(q_nkgd: torch.Tensor, plan: Plan, layer: int) -> torch.Tensor:
    """Return the attention of each token over its row and its head, `[n, k, g, d]`."""
    parts = [_attend_together(q_nkgd, plan.rows, plan.together, layer)] if plan.together else []
    parts += [_attend_apart(q_nkgd[a.start : a.stop], plan.rows, a, layer) for a in plan.apart]
    mixed = torch.cat([part[0] for part in parts])
    weight = torch.cat([part[1] for part in parts])
    for head, tokens in plan.heads:
        behind = q_nkgd if tokens is None else q_nkgd[tokens]
        other, other_weight = _attend_head(behind, head.state[layer])
        if tokens is None:
            mixed = _merge(mixed, weight, other, other_weight)
        else:
            mixed = mixed.index_copy(0, tokens, _merge(mixed[tokens], weight[tokens], other, other_weight))
    return mixed


def _merge(a: torch.Tensor, a_lse: torch.Tensor, b: torch.Tensor, b_lse: torch.Tensor) -> torch.Tensor:
    # Spread over the head size first: the kernels treat the last few elements of a tensor in another way.
    share = torch.sigmoid((b_lse - a_lse).unsqueeze(-1).expand(a.shape).contiguous())
    return torch.lerp(a.float(), b.float(), share.float()).to(a.dtype)


def _attend_together(
    q_nkgd: torch.Tensor, rows: Rows, layout: _Together, layer: int
) -> tuple[torch.Tensor, torch.Tensor]:
    n_groups = q_nkgd.shape[2]
    keys = rows.keys[layer, layout.low : layout.high, :, : layout.n_columns]
    values = rows.values[layer, layout.low : layout.high, :, : layout.n_columns]
    mixed, lse = _weigh(_even(q_nkgd[layout.tokens]), keys, values, layout.mask)
    return mixed[layout.back, :, :n_groups], lse[layout.back, :, :n_groups]


def _attend_apart(
    q_nkgd: torch.Tensor, rows: Rows, row: _Apart, layer: int
) -> tuple[torch.Tensor, torch.Tensor]:
    n, n_kv, n_groups, size = q_nkgd.shape
    keys = rows.keys[layer, row.slot, :, : row.n_before + n]
    values = rows.values[layer, row.slot, :, : row.n_before + n]
    if row.mask is not None:
        q = q_nkgd.transpose(0, 1).reshape(1, n_kv, n * n_groups, size)
        mixed, lse = _weigh(q, keys.unsqueeze(0), values.unsqueeze(0), row.mask[None, None])
        return mixed.view(n_kv, n, n_groups, size).transpose(0, 1), lse.view(n_kv, n, n_groups).transpose(
            0, 1
        )
    wide = (n_kv, n_groups, n, size)  # causal skipping needs one key head per query head
    keys = keys.unsqueeze(1).expand(wide).reshape(1, n_kv * n_groups, n, size)
    values = values.unsqueeze(1).expand(wide).reshape(1, n_kv * n_groups, n, size)
    q = q_nkgd.permute(1, 2, 0, 3).reshape(1, n_kv * n_groups, n, size)
    mixed, lse = _weigh(q, keys, values, None, is_causal=True)
    return mixed.view(wide).permute(2, 0, 1, 3), lse.reshape(n_kv, n_groups, n).permute(2, 0, 1)


def _attend_head(q_nkgd: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    n, n_kv, n_groups, size = q_nkgd.shape
    q = _even(q_nkgd.transpose(0, 1).reshape(1, n_kv, n * n_groups, size))
    mixed, lse = _weigh(q, state[0].unsqueeze(0), state[1].unsqueeze(0), None)
    mixed, lse = mixed[:, :, : n * n_groups], lse[:, :, : n * n_groups]
    return (
        mixed.reshape(n_kv, n, n_groups, size).transpose(0, 1),
        lse.reshape(n_kv, n, n_groups).transpose(0, 1),
    )


def _even(x_qd: torch.Tensor) -> torch.Tensor:
    return F.pad(x_qd, (0, 0, 0, -x_qd.shape[-2] % _QUERY_STEP))


def _weigh(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    is_causal: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scaled dot-product attention `[b, h, q, d]` with the natural log of each query's sum, `[b, h, q]`."""
    if q.device.type == "cpu":
        op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        mixed, lse = op(q, keys, values, 0.0, is_causal, attn_mask=mask)
        return mixed, lse
    scores = (q @ keys.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    if is_causal:
        n = scores.shape[-1]
        scores = scores.masked_fill(
            torch.ones(n, n, dtype=torch.bool, device=q.device).triu(1), float("-inf")
        )
    if mask is not None:
        scores = scores + mask.float()
    lse = scores.logsumexp(-1)
    return (scores - lse.unsqueeze(-1)).exp().to(values.dtype) @ values, lse
