"""The arithmetic of evidence: Wilson interval, paired bootstrap, exact McNemar test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING

from agentkd.schema import Interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["mcnemar_p", "paired_bootstrap", "superiority_p", "wilson"]

_RESAMPLED_CELLS = 4_000_000


def wilson(total: float, n: int, level: float = 0.95) -> Interval:
    """Return the Wilson score interval of a share `total / n`.

    `total` may be a sum of scores in [0, 1]: their variance is at most that of a share, so the interval
    is then too wide rather than too narrow. Without observations the interval is [0, 1] around 0.

    Source: E. B. Wilson, JASA 22 (1927).
    """
    if n <= 0:
        return Interval(value=0.0, low=0.0, high=1.0, level=level)
    share = total / n
    z = NormalDist().inv_cdf(0.5 + level / 2)
    scale = 1.0 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if total <= 0 else max(0.0, min(share, centre - half))
    high = 1.0 if total >= n else min(1.0, max(share, centre + half))
    return Interval(value=share, low=low, high=high, level=level)


def paired_bootstrap(
    ours: Sequence[float] | NDArray[np.float64],
    other: Sequence[float] | NDArray[np.float64],
    *,
    n_resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the mean of `ours - other` with the percentile interval of a bootstrap over pairs.

    Args:
        ours: Scores of the first arm, `[n]`.
        other: Scores of the second arm on the same tasks in the same order, `[n]`.
        n_resamples: Resamples of the pairs.
        level: Confidence level.
        seed: Seed of the resampling; equal inputs give equal intervals.

    Source: B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.
    """
    import numpy as np

    difference = np.asarray(ours, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    if difference.ndim != 1 or difference.size == 0:
        raise ValueError("a paired bootstrap needs at least one pair of scores")
    values, counts = np.unique(difference, return_counts=True)
    # Drawing n pairs with replacement draws how often each distinct difference occurs: a multinomial.
    # For successes that is three numbers per resample instead of n.
    generator = np.random.default_rng(seed)
    block = max(1, _RESAMPLED_CELLS // values.size)
    means = np.concatenate(
        [
            generator.multinomial(difference.size, counts / difference.size, size=min(block, left)) @ values
            for left in range(n_resamples, 0, -block)
        ]
    )
    low, high = np.quantile(means / difference.size, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(value=float(difference.mean()), low=float(low), high=float(high), level=level)


def mcnemar_p(wins: int, losses: int) -> float:
    """Return the two-sided p-value of the exact McNemar test.

    Under no difference each of the `wins + losses` discordant pairs is a fair coin.

    Source: Q. McNemar, Psychometrika 12 (1947); exact binomial form.
    """
    return min(1.0, 2 * _tail(wins + losses, min(wins, losses)))


def superiority_p(wins: int, losses: int) -> float:
    """Return the one-sided p-value of the exact McNemar test: the chance of at least so many wins.

    The level of this test is the chance that an arm that is no better passes for a better one; the
    two-sided test spends half of its level on arms that are worse.
    """
    return _tail(wins + losses, losses)


def _tail(n: int, k: int) -> float:
    """Return P(X <= k) of `n` tosses of a fair coin, in exact integers."""
    term, tail = 1, 1  # binomial coefficients C(n, 0) ... C(n, k)
    for i in range(1, k + 1):
        term = term * (n - i + 1) // i
        tail += term
    return float(tail / 2**n)
