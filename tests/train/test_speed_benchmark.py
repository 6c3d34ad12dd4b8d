"""The rows and arms of `benchmarks/train.py`: what is compared is the same training."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from agentkd import hf

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

TURNS = [
    ("system", "You help customers.", False),
    ("user", "When does the parcel arrive?", False),
    ("assistant", "On Friday.", True),
    ("user", "And the other?", False),
    ("assistant", "Tomorrow.", True),
]


def test_rows_predict_what_the_agent_says_and_its_end(base: Path) -> None:
    from train_rows import Writer

    tokenizer = hf.load_tokenizer(base)
    row = Writer(tokenizer).row(TURNS, 1000)
    assert row is not None
    said = [token for token, flag in zip(row.ids, row.is_label, strict=True) if flag]
    assert tokenizer.decode(said) == "On Friday.<|im_end|>Tomorrow.<|im_end|>"
    assert row.is_label[-1] == 1


def test_rows_are_cut_between_turns(base: Path) -> None:
    from train_rows import Writer

    writer = Writer(hf.load_tokenizer(base))
    whole = writer.row(TURNS, 1000)
    assert whole is not None
    cut = writer.row(TURNS, len(whole.ids) - 1)
    assert cut is not None
    assert cut.ids == whole.ids[: len(cut.ids)]
    assert sum(cut.is_label) < sum(whole.is_label)
    assert writer.row(TURNS, 30) is None


@pytest.mark.parametrize("is_flat", [True, False])
def test_micro_batches_hold_every_row_of_their_step_once(is_flat: bool) -> None:
    from train_trl import micro_batches

    rows = [([1] * n, [1] * n) for n in (5, 9, 2, 7, 3, 8, 4)]
    steps = [[0, 1, 2, 3], [4, 5, 6]]
    parts = micro_batches({"rows": rows, "steps": steps, "n_steps": 2, "trl": {"n_micro": 3}}, is_flat)
    assert len(parts) == 6
    for number, step in enumerate(steps):
        found = parts[3 * number : 3 * number + 3]
        assert all(found)
        assert sorted(row for part in found for row in part) == step


def test_the_arms_train_alike(base: Path, tmp_path: Path) -> None:
    import train_arm
    from train import write_dataset
    from train_rows import Row

    from agentkd.train.packing import plan_steps

    rows = [Row((1, 5, 6, *range(20, 30 + 3 * n)), (0,) * 6 + (1,) * (7 + 3 * n)) for n in range(8)]
    write_dataset(tmp_path / "dataset", rows)
    spec: dict[str, Any] = {
        "model": str(base), "adapter": str(tmp_path / "adapter"), "dataset": str(tmp_path / "dataset"),
        "output": str(tmp_path / "output"), "rows": [(row.ids, row.is_label) for row in rows],
        "steps": plan_steps([len(row.ids) for row in rows], epochs=1.0, tokens_per_step=60, seed=3),
        "tokens_per_step": 60, "seed": 3, "r": 4, "learning_rate": 5e-3, "warmup_share": 0.1,
        "micro_rows": 2, "dtype": "float32", "device": "cpu",
    }  # fmt: skip
    spec["n_steps"] = len(spec["steps"])
    train_arm.prepare(spec)
    ours, theirs = train_arm.Clock("cpu"), train_arm.Clock("cpu")
    train_arm.agentkd(spec, ours)
    train_arm.bare(spec, theirs)
    assert len(ours.steps) == spec["n_steps"] > 2
    for mine, other in zip(ours.steps, theirs.steps, strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], abs=1e-4)
    assert json.loads((tmp_path / "output" / "checkpoint.json").read_text())["n_parameters"] > 0
