"""How many tasks a decision needs: exact power of the paired test, and what is left of its level.

A gate that looks at the same held-out tasks cycle after cycle would promote by chance sooner or later. So
every look spends a share of `alpha`, and the shares of all looks between two promotions sum to `alpha`.
"""

from __future__ import annotations

import math

from agentkd.errors import ConfigError
from agentkd.evaluate.statistics import mcnemar_p

__all__ = ["MOST_TASKS", "power_of", "spent_alpha", "tasks_needed"]

MOST_TASKS = 20_000
"""More tasks than this are not counted up to."""


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
        alpha: Level of the two-sided test.
    """
    _check(win, loss)
    differ = win + loss
    if not differ:
        return 0.0
    power = 0.0
    for pairs in range(n + 1):
        chance = _binomial(n, pairs, differ)
        if chance < 1e-12:
            continue
        least = _wins_needed(pairs, alpha)
        share = win / differ
        power += chance * sum(_binomial(pairs, wins, share) for wins in range(least, pairs + 1))
    return min(power, 1.0)


def tasks_needed(win: float, loss: float, *, alpha: float, power: float = 0.8) -> int:
    """Return the fewest tasks on which a candidate with these shares is found better with this power.

    The power rises in small waves; the answer is exact to within one of them. Raises ConfigError where
    `win` is not above `loss`, or where more than `MOST_TASKS` tasks would be needed.
    """
    _check(win, loss)
    if win <= loss:
        raise ConfigError(
            f"a candidate that wins {win:g} and loses {loss:g} of the tasks is not better",
            hint="give a gain above 0",
        )
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
            f"shares of tasks won ({win:g}) and lost ({loss:g}) must be in [0, 1] and sum to <= 1"
        )


def _wins_needed(pairs: int, alpha: float) -> int:
    """Return how many of the pairs that differ must be won; more than there are where none suffice."""
    low, high = pairs // 2 + 1, pairs + 1
    while low < high:
        middle = (low + high) // 2
        if mcnemar_p(middle, pairs - middle) < alpha:
            high = middle
        else:
            low = middle + 1
    return low


def _binomial(n: int, k: int, p: float) -> float:
    if p in (0.0, 1.0):
        return float(k == n * p)
    log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(log + k * math.log(p) + (n - k) * math.log1p(-p))
