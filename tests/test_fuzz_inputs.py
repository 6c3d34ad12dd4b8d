"""A few hundred broken inputs of every kind; `make soak-fuzz` does the same with ten thousand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from soak_fuzz import fuzz


@pytest.mark.parametrize("seed", [1])
def test_broken_inputs_end_in_one_line_and_change_no_fact(tmp_path: Path, seed: int) -> None:
    made, n_stray = fuzz(tmp_path / "world", 60, seed)
    assert made.counts.n.total() == 300
    assert made.counts.broken == []
    assert made.counts.changed == []
    assert n_stray == 0
    reached = {"config 0", "config 2", "jsonl 0", "jsonl 3", "packs 3", "adapters 9", "adapters read"}
    assert reached <= made.counts.codes.keys()  # what is sound after all is read, the rest is refused
