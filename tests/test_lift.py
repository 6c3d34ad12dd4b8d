"""The posterior of lift: right arithmetic, honest intervals, and a prior that says nothing by itself."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkd.config import MemorySettings
from agentkd.schema import Lift, Utility, lift_of, mean_lift, pooled_prior
from agentkd.schema.lift import UNIFORM, common_prior

COUNTS = st.integers(0, 30)


def counts(wins: int, n: int, held_out_wins: int, held_out: int) -> Utility:
    return Utility(recalls=n, wins=wins, held_out=held_out, held_out_wins=held_out_wins)


@pytest.mark.parametrize(
    ("utility", "prior"),
    [
        (counts(0, 0, 0, 0), UNIFORM), (counts(8, 9, 1, 6), UNIFORM), (counts(14, 14, 4, 4), (1.8, 0.2)),
        (counts(0, 30, 2, 2), (0.3, 1.7)), (counts(600, 1000, 40, 80), UNIFORM),
        (counts(70_000, 200_000, 7, 20), (1.0, 1.0)), (counts(3, 3, 0, 0), (1.9, 0.1)),
    ],
)  # fmt: skip
def test_the_posterior_agrees_with_sampling(utility: Utility, prior: tuple[float, float]) -> None:
    lift = lift_of(utility, prior, level=0.9, band=0.05)
    rng, n, (a, b) = np.random.default_rng(0), 400_000, prior
    with_it = rng.beta(a + utility.wins, b + utility.recalls - utility.wins, n)
    without = rng.beta(a + utility.held_out_wins, b + utility.held_out - utility.held_out_wins, n)
    drawn = with_it - without
    assert lift.value == pytest.approx(drawn.mean(), abs=0.003)
    assert (lift.low, lift.high) == pytest.approx(tuple(np.quantile(drawn, [0.05, 0.95])), abs=0.006)
    assert lift.p_negative == pytest.approx((drawn < 0).mean(), abs=0.004)
    assert lift.p_idle == pytest.approx((drawn < 0.05).mean(), abs=0.006)
    assert (lift.n_with, lift.n_without, lift.level) == (utility.recalls, utility.held_out, 0.9)


@given(COUNTS, COUNTS, COUNTS, COUNTS, st.floats(0.05, 0.95))
def test_lift_is_ordered_and_turns_its_sign_with_its_arms(
    a: int, b: int, c: int, d: int, mean: float
) -> None:
    prior = (2 * mean, 2 * (1 - mean))
    one = lift_of(counts(a, a + b, c, c + d), prior)
    other = lift_of(counts(c, c + d, a, a + b), prior)
    assert -1.0 <= one.low <= one.value <= one.high <= 1.0
    assert 0.0 <= one.p_negative <= 1.0
    assert other.value == pytest.approx(-one.value)
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low), abs=0.004)
    assert other.p_negative == pytest.approx(1.0 - one.p_negative, abs=1e-6)


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_a_further_success_with_it_never_speaks_against_it(a: int, b: int, c: int, d: int) -> None:
    before, after = (lift_of(counts(wins, a + b + 1, c, c + d)) for wins in (a, a + 1))
    assert after.p_negative <= before.p_negative + 1e-9
    assert after.value > before.value


def test_without_tasks_nothing_is_said() -> None:
    for prior in (UNIFORM, pooled_prior([counts(0, 0, 45, 50)])):
        lift = lift_of(Utility(), prior)
        assert lift.value == pytest.approx(0.0)
        assert lift.p_negative == pytest.approx(0.5, abs=1e-6)


def test_the_prior_is_centred_on_the_scope_s_withheld_tasks() -> None:
    assert pooled_prior([]) == pooled_prior([counts(9, 9, 0, 0)]) == (1.0, 1.0)
    pool = [counts(0, 9, 20, 40), counts(3, 3, 9, 10)]
    assert pooled_prior(pool) == pytest.approx((2 * 30 / 52, 2 * 22 / 52))
    assert pooled_prior(pool, strength=6.0) == pytest.approx((6 * 30 / 52, 6 * 22 / 52))
    assert pooled_prior([counts(0, 0, 500, 500)]) == pytest.approx((2 * 501 / 502, 0.5))


def test_pooling_compares_a_memory_with_few_withheld_tasks_with_its_scope() -> None:
    bad = counts(2, 10, 2, 3)
    alone = lift_of(bad)
    pooled = lift_of(bad, pooled_prior([counts(0, 0, 85, 100)]))
    assert alone.p_negative < 0.95 < pooled.p_negative


def test_a_posterior_names_its_figures() -> None:
    text = lift_of(counts(18, 20, 5, 9)).text()
    assert "18 of 20 with, 5 of 9 without" in text
    assert text.startswith("+0.")


@pytest.mark.parametrize("true_lift", [-0.4, 0.0, 0.3])
def test_intervals_hold_the_true_lift_at_about_their_level(true_lift: float) -> None:
    """Frequentist cover over simulated counts, with rates and numbers of tasks as trials give them."""
    rng = np.random.default_rng(7)
    held = []
    for _ in range(1200):
        without = rng.uniform(max(0.1, 0.1 - true_lift), min(0.9, 0.9 - true_lift))
        n_with, n_without = int(rng.integers(8, 40)), int(rng.integers(4, 20))
        utility = counts(
            int(rng.binomial(n_with, without + true_lift)), n_with,
            int(rng.binomial(n_without, without)), n_without,
        )  # fmt: skip
        lift = _lift(*utility.model_dump().values())
        held.append(lift.low <= true_lift <= lift.high)
    assert 0.93 <= float(np.mean(held)) <= 0.99


def test_intervals_are_calibrated_where_the_prior_is_true() -> None:
    """Where rates are drawn from the prior, a 95 % interval holds 95 % of the lifts, whatever the counts."""
    rng = np.random.default_rng(3)
    with_it, without = rng.beta(1, 1, 2000), rng.beta(1, 1, 2000)
    held, negative = [], []
    for p, q in zip(with_it, without, strict=True):
        n, m = int(rng.integers(0, 12)), int(rng.integers(0, 6))
        lift = _lift(n, int(rng.binomial(n, p)), m, int(rng.binomial(m, q)))
        held.append(lift.low <= p - q <= lift.high)
        negative.append((lift.p_negative, p < q))
    assert float(np.mean(held)) == pytest.approx(0.95, abs=0.015)
    sure = [harms for said, harms in negative if said > 0.9]
    assert len(sure) > 100
    assert float(np.mean(sure)) == pytest.approx(0.96, abs=0.04)


@cache
def _lift(recalls: int, wins: int, held_out: int, held_out_wins: int) -> Lift:
    return lift_of(Utility(recalls=recalls, wins=wins, held_out=held_out, held_out_wins=held_out_wins))


@pytest.mark.parametrize("seen", [(50, 2, 1, 0), (50, 48, 1, 1), (40, 20, 2, 1)])
def test_one_withheld_task_of_a_hard_or_easy_suite_says_no_lift(seen: tuple[int, int, int, int]) -> None:
    recalls, wins, held_out, held_out_wins = seen
    utility = Utility(recalls=recalls, wins=wins, held_out=held_out, held_out_wins=held_out_wins)
    assert abs(mean_lift(utility, common_prior(utility))) < 0.03


def test_by_default_enough_tasks_show_nothing_to_switch_recall_off() -> None:
    settings = MemorySettings()
    assert settings.trial_share * settings.trial_all * settings.trial_window >= 2 * settings.trial_tasks
