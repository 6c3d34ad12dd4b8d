"""The arithmetic against brute force and published values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkd.evaluate.statistics import mcnemar_p, paired_bootstrap, superiority_p, wilson

scores = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def test_wilson_gives_the_published_interval():
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3.
    for total, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        interval = wilson(total, n)
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_wilson_bounds_solve_the_score_equation(counts, level):
    total, n = counts
    interval = wilson(total, n, level)
    assert 0.0 <= interval.low <= interval.value <= interval.high <= 1.0
    from statistics import NormalDist

    z = NormalDist().inv_cdf(0.5 + level / 2)
    for bound in (interval.low, interval.high):
        if 0.0 < bound < 1.0:
            assert abs(total / n - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / n), abs=1e-9)


@given(st.integers(0, 50), st.integers(1, 50))
def test_wilson_mirrors_when_successes_and_failures_swap(total, rest):
    n = total + rest
    one, two = wilson(total, n), wilson(rest, n)
    assert one.low == pytest.approx(1 - two.high, abs=1e-12)


def test_no_observations_say_nothing():
    interval = wilson(0, 0)
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_mcnemar_gives_known_values():
    assert mcnemar_p(0, 0) == 1.0
    assert mcnemar_p(6, 0) == pytest.approx(2 / 64)
    assert mcnemar_p(5, 5) == 1.0
    assert mcnemar_p(1, 9) == pytest.approx(2 * 11 / 1024)
    assert mcnemar_p(120, 60) == pytest.approx(8.9e-6, rel=0.05)


@given(st.integers(0, 11), st.integers(0, 11))
def test_mcnemar_counts_the_coin_tosses_at_least_as_uneven(wins, losses):
    n = wins + losses
    uneven = sum(
        abs(2 * sum(tosses) - n) >= abs(wins - losses)
        for tosses in itertools.product((0, 1), repeat=min(n, 11))
    )
    if n <= 11:
        assert mcnemar_p(wins, losses) == pytest.approx(uneven / 2**n)
    assert mcnemar_p(wins, losses) == mcnemar_p(losses, wins)


def test_superiority_is_the_chance_of_at_least_so_many_wins():
    assert superiority_p(0, 0) == superiority_p(0, 7) == 1.0
    assert superiority_p(6, 0) == pytest.approx(1 / 64)
    assert superiority_p(9, 1) == pytest.approx(11 / 1024)
    assert superiority_p(1, 9) == pytest.approx(1 - 1 / 1024)
    assert superiority_p(12, 3) == pytest.approx(mcnemar_p(12, 3) / 2)


def test_mcnemar_holds_on_ten_thousand_pairs():
    assert 0.0 <= mcnemar_p(5_500, 4_500) < 1e-20
    assert mcnemar_p(5_010, 4_990) == pytest.approx(0.849, abs=0.01)


@given(scores, st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_bootstrap_is_repeatable_and_holds_its_estimate(pairs, seed):
    ours, other = [float(a) for a, _ in pairs], [float(b) for _, b in pairs]
    one = paired_bootstrap(ours, other, n_resamples=500, seed=seed)
    assert one == paired_bootstrap(ours, other, n_resamples=500, seed=seed)
    assert one.value == pytest.approx(np.mean(np.subtract(ours, other)))
    assert -1.0 <= one.low <= one.high <= 1.0


@given(scores)
@settings(max_examples=40, deadline=None)
def test_bootstrap_mirrors_when_the_arms_swap(pairs):
    ours, other = [float(a) for a, _ in pairs], [float(b) for _, b in pairs]
    one = paired_bootstrap(ours, other, n_resamples=4_000)
    two = paired_bootstrap(other, ours, n_resamples=4_000)
    step = 1 / len(pairs)  # means of n pairs lie on a grid: a quantile may fall on the next point
    assert one.low == pytest.approx(-two.high, abs=2.01 * step)


def test_bootstrap_agrees_with_resampling_the_pairs_one_by_one():
    generator = np.random.default_rng(5)
    ours, other = generator.random(150) < 0.45, generator.random(150) < 0.3
    difference = ours.astype(float) - other
    draws = generator.integers(0, 150, size=(20_000, 150))
    low, high = np.quantile(difference[draws].mean(axis=1), [0.025, 0.975])
    interval = paired_bootstrap(ours.astype(float), other.astype(float), n_resamples=20_000)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.008)


def test_bootstrap_takes_scores_between_zero_and_one():
    generator = np.random.default_rng(1)
    ours, other = generator.random(400), generator.random(400) * 0.5
    interval = paired_bootstrap(ours, other, n_resamples=2_000)
    spread = float(np.std(ours - other) / math.sqrt(400))
    assert interval.low == pytest.approx(interval.value - 1.96 * spread, abs=0.01)
    assert interval.high == pytest.approx(interval.value + 1.96 * spread, abs=0.01)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(3)
    hits = 0
    for trial in range(300):
        ours, other = generator.random(200) < 0.4, generator.random(200) < 0.3
        interval = paired_bootstrap(ours.astype(float), other.astype(float), n_resamples=1_000, seed=trial)
        hits += interval.low <= 0.1 <= interval.high
    assert 0.91 <= hits / 300 <= 0.985


def test_bootstrap_without_pairs_is_refused():
    with pytest.raises(ValueError, match="at least one pair"):
        paired_bootstrap([], [])
