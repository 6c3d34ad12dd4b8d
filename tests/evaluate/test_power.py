"""The power of the paired test is exact, and looks between two promotions share one level."""

from __future__ import annotations

import random

import pytest

from agentkd.errors import ConfigError
from agentkd.evaluate import power_of, spent_alpha, tasks_needed
from agentkd.evaluate.statistics import superiority_p


def test_the_power_is_what_a_simulation_finds():
    generator, found = random.Random(3), 0
    for _ in range(4000):
        draws = [generator.random() for _ in range(80)]
        wins, losses = sum(d < 0.2 for d in draws), sum(0.2 <= d < 0.28 for d in draws)
        found += wins > losses and superiority_p(wins, losses) < 0.05
    assert power_of(80, 0.2, 0.08, 0.05) == pytest.approx(found / 4000, abs=0.025)


def test_an_equal_student_is_rarely_taken_for_a_better_one():
    assert 0.025 < power_of(200, 0.1, 0.1, 0.05) <= 0.05


def test_the_number_of_tasks_gives_the_power_that_was_asked_for():
    n = tasks_needed(0.15, 0.05, alpha=0.05, power=0.8)
    assert power_of(n, 0.15, 0.05, 0.05) >= 0.8 > power_of(n // 2, 0.15, 0.05, 0.05)


@pytest.mark.parametrize(("win", "loss"), [(0.1, 0.1), (0.05, 0.2), (0.9, 0.3), (0.0501, 0.05)])
def test_what_cannot_be_shown_is_said(win, loss):
    with pytest.raises(ConfigError):
        tasks_needed(win, loss, alpha=0.05)


def test_long_sums_are_as_exact_as_short_ones(monkeypatch):
    exact = power_of(300, 0.3, 0.25, 0.01)
    monkeypatch.setattr("agentkd.evaluate.power._EXACT", 0)
    assert power_of(300, 0.3, 0.25, 0.01) == pytest.approx(exact, rel=1e-9)
    with pytest.raises(ConfigError, match="no number of tasks"):
        tasks_needed(0.2, 0.1, alpha=0.05, power=1.0)


def test_all_looks_together_spend_alpha():
    levels = [spent_alpha(0.05, look) for look in range(1, 2000)]
    assert levels == sorted(levels, reverse=True)
    assert 0.0499 < sum(levels) < 0.05
    with pytest.raises(ConfigError):
        spent_alpha(0.05, 0)
