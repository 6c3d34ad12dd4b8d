"""Attention over a pack is what each row gives alone, with its gradients, however the pack is cut."""

from __future__ import annotations

import pytest
import torch

from agentkd.train.attention import Layout, packed_attention
from agentkd.train.block import make_blocks
from agentkd.train.packing import Pack, make_packs
from agentkd.train.rows import View

HEADS, KV_HEADS, DIM = 4, 2, 8
TURNS = [list(range(n)) for n in (40, 300, 310, 700)]
TWINS = [[*range(280), 1000 + n, *range(2000, 2000 + n)] for n in range(30)]
APART = [[3000 + n] * (20 * n + 5) for n in range(8)]
LONG = [[5, *range(2600)], [5, *range(2600), 7], [5, 6]]


def pack_of(rows: list[list[int]]) -> Pack:
    views = [View((*row, 0), (len(row),), (1.0,)) for row in rows]
    (pack,) = make_packs(views, 10**6, 10**9)
    return pack


def alone(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, path: list[int], window: int | None
) -> torch.Tensor:
    """Attend in one row with a full mask."""
    seen = torch.ones(len(path), len(path), dtype=torch.bool).tril()
    if window is not None:
        seen = seen.triu(1 - window)
    rows = (states[:, :, path] for states in (q, k, v))
    found = torch.nn.functional.scaled_dot_product_attention(
        *rows, attn_mask=seen, scale=0.3, enable_gqa=True
    )
    return found[0].transpose(0, 1)


def states(n: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, heads, n, DIM) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    return [torch.randn(s, dtype=torch.float64, generator=generator, requires_grad=True) for s in shapes]


@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize("rows", [TURNS, TWINS, APART, TURNS + TWINS + APART, LONG])
def test_a_pack_attends_as_its_rows_do(rows: list[list[int]], window: int | None) -> None:
    pack = pack_of(rows)
    inputs = states(len(pack.tokens))
    layout = Layout(pack, torch.device("cpu"), torch.float64)
    found, _ = packed_attention(
        torch.nn.Module(), *inputs, None, layout=layout, scaling=0.3, sliding_window=window
    )
    factor = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).view_as(found)
    got = torch.autograd.grad((found * factor).sum(), inputs)
    wanted, n_seen = torch.empty_like(found[0]), 0
    for path in pack.paths:
        own = [place for place, token in enumerate(path) if token >= n_seen]
        if own:
            wanted[[path[place] for place in own]] = alone(*inputs, path, window)[own].detach()
            n_seen = path[-1] + 1
    torch.testing.assert_close(found[0], wanted)
    for mine, theirs in zip(got, _gradients(pack, inputs, factor[0], window), strict=True):
        torch.testing.assert_close(mine, theirs)


def _gradients(
    pack: Pack, inputs: list[torch.Tensor], factor: torch.Tensor, window: int | None
) -> tuple[torch.Tensor, ...]:
    total, n_seen = torch.zeros((), dtype=torch.float64), 0
    for path in pack.paths:
        own = [place for place, token in enumerate(path) if token >= n_seen]
        if own:
            said = alone(*inputs, path, window)[own]
            total = total + (said * factor[[path[place] for place in own]]).sum()
            n_seen = path[-1] + 1
    return torch.autograd.grad(total, inputs)


def test_every_token_is_a_query_once() -> None:
    pack = pack_of(TURNS + TWINS + APART)
    blocks = make_blocks(pack, None, torch.float32)
    assert [block.start for block in blocks] == [0, *(block.end for block in blocks[:-1])]
    assert blocks[-1].end == len(pack.tokens)


def test_a_shared_prefix_is_attended_by_many_rows_at_once() -> None:
    pack = pack_of(TWINS)
    blocks = make_blocks(pack, None, torch.float32)
    by_rows = sum(len(path) ** 2 for path in pack.paths)
    assert len(blocks) < 10 < len(pack.paths)
    assert sum(block.n_pairs for block in blocks) < by_rows / 5


def test_long_rows_keep_no_scores() -> None:
    device = torch.device("cpu")
    assert Layout(pack_of(LONG), device, torch.float32).blocks(None) is None
    assert Layout(pack_of(TWINS), device, torch.float32).blocks(None) is not None
