"""The alarm of teacher hacking sounds where the loss falls for nothing, and is quiet while one learns."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from agentkd.evaluate import Course, find_hacking, read_course

N = 60


def course(*, off: float = 1.0, golden: tuple[float, ...] = (0.9, 0.7, 0.6), seed: int = 3) -> Course:
    """Make a training along ``step ** -0.4`` whose last quarter is `off` times its law."""
    noise = random.Random(seed)
    proxy = [
        (step, 3 * step**-0.4 * noise.lognormvariate(0, 0.05) * (off if step > 3 * N // 4 else 1.0))
        for step in range(1, N + 1)
    ]
    every = N // max(len(golden), 1)
    return Course(proxy=tuple(proxy), golden=tuple((every * (n + 1), loss) for n, loss in enumerate(golden)))


def test_the_exponent_of_a_power_law_is_found_and_the_alarm_is_quiet() -> None:
    found = find_hacking(course())
    assert found.slope == pytest.approx(-0.4, abs=0.06)
    assert abs(found.departure) < 0.1
    assert found.is_hacked(1.0, 0.2) == ""


@pytest.mark.parametrize("off", [0.2, 4.0])
def test_a_loss_that_leaves_its_law_while_the_golden_metric_stands_still_is_an_alarm(off: float) -> None:
    found = find_hacking(course(off=off, golden=(0.6, 0.6, 0.61)))
    assert found.departure == pytest.approx(off - 1, rel=0.3)
    assert "left its power law" in found.is_hacked(1.0, 0.2)
    assert find_hacking(course(off=off, golden=())).is_hacked(1.0, 0.2)  # nothing speaks for it


def test_a_golden_metric_that_fell_and_then_levels_off_is_no_alarm_while_the_loss_is_below_its_law() -> None:
    level = (
        0.595,
        0.236,
        0.2425,
    )  # three passes over 315 real rows: the student did 0.4 where the base does 0.05
    assert find_hacking(course(off=0.5, golden=level)).is_hacked(0.45, 0.2) == ""
    assert find_hacking(course(off=4.0, golden=level)).is_hacked(1.0, 0.2), "a loss above its law is one"


def test_rows_seen_again_are_no_alarm_while_the_golden_metric_falls() -> None:
    assert find_hacking(course(off=0.2)).is_hacked(1.0, 0.2) == ""


def test_a_golden_metric_that_turns_while_the_loss_falls_is_an_alarm() -> None:
    found = find_hacking(course(golden=(0.6, 0.9, 1.2)))
    assert found.golden_rise == pytest.approx(1.0)
    assert "turned while the training loss still fell" in found.is_hacked(1.0, 0.2)
    assert found.is_hacked(1.0, 2.0) == ""


def test_few_steps_have_no_law() -> None:
    short = Course(proxy=((1, 1.0), (2, 0.5)))
    assert not find_hacking(short).is_seen
    assert find_hacking(short).is_hacked(1.0, 0.2) == ""


def test_the_course_is_read_from_the_log_of_a_training(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    rows = [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": 1.4, "terms": {"sft": 1.0, "anchor": 0.4}},
        {"step": 2, "dev_loss": 1.5},
        {"step": 3, "loss": 0.9, "task_loss": 0.5, "terms": {"sft": 5.0, "anchor": 0.8}},
    ]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert read_course(log) == Course(proxy=((1, 2.0), (2, 1.0), (3, 0.5)), golden=((2, 1.5),))
    assert read_course(tmp_path / "none.jsonl") == Course()
