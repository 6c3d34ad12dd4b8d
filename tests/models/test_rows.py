"""The key-value cache: rows may be given back wherever and in whatever order."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from agentkd.models.attention import Rows

SHAPE = SimpleNamespace(shape=(2, 1, 4), dtype=torch.float32, device=torch.device("cpu"))


def test_a_cache_that_grew_in_inference_mode_can_give_rows_back_outside_of_it() -> None:
    rows = Rows(SHAPE)
    with torch.inference_mode():
        first, second = rows.open(None, 8), rows.open(None, 8)
        rows.keys[:, rows._slots[second]] = 7.0
    rows._lengths[rows._slots[second]] = 3
    rows.close(first)
    assert torch.equal(rows.copy_out(second)[:, 0], torch.full((2, 1, 3, 4), 7.0))
    rows.close(second)


@pytest.mark.parametrize(("limit", "is_kept"), [(1 << 30, True), (1 << 10, False)])
def test_an_empty_cache_is_kept_up_to_so_many_bytes(
    monkeypatch: pytest.MonkeyPatch, limit: int, is_kept: bool
) -> None:
    monkeypatch.setattr("agentkd.models.attention._KEEP_BYTES", limit)
    rows = Rows(SHAPE)
    row = rows.open(None, 64)
    assert rows.keys.nbytes + rows.values.nbytes == 2 * 2 * 64 * 4 * 4
    rows.close(row)
    assert (rows.keys.nbytes > 0) is is_kept
