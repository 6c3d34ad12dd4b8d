"""How many tasks a decision needs: exact power of the paired test, and what is left of its level.

A gate that looks at the same held-out tasks cycle after cycle would promote by chance sooner or later. So
every look spends a share of `alpha`, and the shares of all looks between two promotions sum to `alpha`.
"""

from __future__ import annotations

import math

from agentkd.errors import ConfigError
from agentkd.evaluate.statistics import superiority_p

__all__ = ["MOST_TASKS", "power_of", "spent_alpha", "tasks_needed"]

MOST_TASKS = 20_000
"""More tasks than this are not counted up to."""

_EXACT = 400  # pairs up to which p-values are computed in whole numbers


def spent_alpha(alpha: float, look: int) -> float:
    """Return the level of a look, from 1: ``alpha * 6 / (pi look)^2``; the levels of all looks sum to alpha.

    Raises ConfigError for a look below 1.

    Source: alpha spending with the convergent series of A. Javanmard and A. Montanari, arXiv 1502.06197.
    """
    if look < 1:
        raise ConfigError(f"looks are counted from 1, not from {look}")
    return alpha * 6 / (math.pi * look) ** 2


def power_of(n: int, win: float, loss: float, alpha: float) -> float:
    """Return the probability that the exact McNemar test finds the better arm better on `n` tasks.

    Args:
        n: Paired tasks.
        win: Share of tasks that only the candidate does.
        loss: Share of tasks that only its rival does.
        alpha: Level of the one-sided test.
    """
    _check(win, loss)
    differ = win + loss
    if not differ:
        return 0.0
    power, least = 0.0, 0
    for pairs in range(n + 1):
        chance = _binomial(n, pairs, differ)
        if chance < 1e-12:
            continue
        least = _wins_needed(pairs, alpha, least)
        power += chance * _upper_tail(pairs, least, win / differ)
    return min(power, 1.0)


def tasks_needed(win: float, loss: float, *, alpha: float, power: float = 0.8) -> int:
    """Return the fewest tasks on which a candidate with these shares is found better with this power.

    The power rises in small waves; the answer is exact to within one of them. Raises ConfigError where
    `win` is not above `loss`, where `power` is not below 1, or where more than `MOST_TASKS` are needed.
    """
    _check(win, loss)
    if win <= loss:
        raise ConfigError(
            f"a candidate that wins {win:g} and loses {loss:g} of the tasks is not better",
            hint="give a gain above 0",
        )
    if not 0 < power < 1:
        raise ConfigError(f"no number of tasks gives a power of {power:g}", hint="ask for 0.8 or 0.9")
    high = 8
    while power_of(high, win, loss, alpha) < power:
        high *= 2
        if high > MOST_TASKS:
            raise ConfigError(
                f"more than {MOST_TASKS} tasks would be needed to see a gain of {win - loss:g}",
                hint="ask for a larger gain or less power",
            )
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle, win, loss, alpha) >= power else (middle, high)
    return high


def _check(win: float, loss: float) -> None:
    if not (0 <= win <= 1 and 0 <= loss <= 1 and win + loss <= 1):
        raise ConfigError(
            f"shares of tasks won ({win:g}) and lost ({loss:g}) must be in [0, 1] and sum to <= 1",
            hint="a gain is what is won less what is lost: at most 1 less twice the loss",
        )


def _wins_needed(pairs: int, alpha: float, least: int = 0) -> int:
    """Return how many of the pairs that differ must be won; more than there are where none suffice.

    Fewer pairs need no more wins, so the search goes on from the `least` that those needed.
    """
    wins = max(least, pairs // 2 + 1)
    while wins <= pairs and _p_value(pairs, wins) >= alpha:
        wins += 1
    return wins


def _p_value(pairs: int, wins: int) -> float:
    """Return the one-sided p-value of so many wins: to the last digit where a digit may decide."""
    return superiority_p(wins, pairs - wins) if pairs <= _EXACT else _upper_tail(pairs, wins, 0.5)


def _upper_tail(n: int, k: int, p: float) -> float:
    """Return P(X >= k) of a binomial X, summed from the end that is nearer to k."""
    if p >= 1.0 or k <= 0 or k > n:
        return float(k <= n)
    is_upper = k > n * p
    at, step = (k, 1) if is_upper else (k - 1, -1)
    term, total, odds = _binomial(n, at, p), 0.0, p / (1 - p)
    while 0 <= at <= n and term > total * 1e-17:
        total += term
        term *= (n - at) / (at + 1) * odds if is_upper else at / (n - at + 1) / odds
        at += step
    return total if is_upper else 1.0 - total


def _binomial(n: int, k: int, p: float) -> float:
    if p in (0.0, 1.0):
        return float(k == n * p)
    log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(log + k * math.log(p) + (n - k) * math.log1p(-p))
