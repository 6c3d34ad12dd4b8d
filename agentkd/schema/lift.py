"""Lift: how much more often tasks are done with something than without it, as a posterior.

Two success rates, `p_with` and `p_without`, have Beta posteriors; lift is their difference. Its
distribution is integrated on a grid, so that equal counts always give equal figures.

Prior (empirical Bayes): both rates start from `Beta(s * m, s * (1 - m))`, where `m` is the success rate
of the scope's withheld tasks, `(wins + 1) / (n + 2)`, and `s` its strength in tasks, 2 by default; neither
parameter is below 1/2. A scope without withheld tasks gives `Beta(1, 1)`. Lift is thus 0 until tasks say
otherwise, and a memory with few withheld tasks of its own is compared with what those of its scope achieve.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from agentkd.schema.base import Value
from agentkd.schema.memory import Utility

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Curve = tuple[NDArray[np.float64], NDArray[np.float64]]  # angles, and the distribution function there

__all__ = ["STRENGTH", "UNIFORM", "Lift", "Prior", "common_prior", "lift_of", "mean_lift", "pooled_prior"]

Prior = tuple[float, float]
"""Parameters of a Beta distribution."""

UNIFORM: Prior = (1.0, 1.0)
"""The prior of one who knows nothing."""
STRENGTH = 2.0
"""Tasks that the prior of a scope is worth."""

_CELLS = 1024  # of each rate's grid
_LEAST = 0.5  # of a prior's parameters, as in Jeffreys' prior: below it, a rate of 0 or 1 is half believed
_TAIL = 1e-9  # probability that may be cut off at either end


class Lift(Value):
    """Success rate with something minus success rate without it."""

    value: float
    """Posterior mean, in [-1, 1]."""
    low: float
    """Lower bound of the central credible interval."""
    high: float
    """Upper bound of the central credible interval."""
    level: float = 0.95
    """Credibility of the interval."""
    n_with: int = 0
    """Tasks with it."""
    wins_with: int = 0
    """Those of them that were done."""
    n_without: int = 0
    """Tasks that would have had it but did not."""
    wins_without: int = 0
    """Those of them that were done."""
    p_negative: float = 0.5
    """Posterior probability that it does harm."""
    p_idle: float = 0.5
    """Posterior probability that it is at most `band`: harmful, or of no use."""
    band: float = 0.0
    """Lift up to which something counts as of no use."""

    def text(self) -> str:
        """Return the figures as `+0.12 [+0.03, +0.21] (18 of 20 with, 5 of 9 without)`."""
        return (
            f"{self.value:+.2f} [{self.low:+.2f}, {self.high:+.2f}] ({self.wins_with} of {self.n_with} "
            f"with, {self.wins_without} of {self.n_without} without)"
        )


def pooled_prior(utilities: Iterable[Utility], strength: float = STRENGTH) -> Prior:
    """Return the prior of both rates, centred on what withheld tasks of a whole scope achieved."""
    n = wins = 0
    for utility in utilities:
        n += utility.held_out
        wins += utility.held_out_wins
    if n == 0:
        return UNIFORM
    mean = (wins + 1) / (n + 2)
    return max(_LEAST, strength * mean), max(_LEAST, strength * (1.0 - mean))


def common_prior(utility: Utility, strength: float = STRENGTH) -> Prior:
    """Return the prior that is centred on all that something was tried on: few tasks alone say no lift."""
    mean = (utility.wins + utility.held_out_wins + 1) / (utility.recalls + utility.held_out + 2)
    return strength * mean, strength * (1.0 - mean)


def mean_lift(utility: Utility, prior: Prior = UNIFORM) -> float:
    """Return the posterior mean of lift alone, in [-1, 1]: cheap enough for every recalled memory."""
    a, b = prior
    seen = (a + utility.wins) / (a + b + utility.recalls)
    return seen - (a + utility.held_out_wins) / (a + b + utility.held_out)


def lift_of(utility: Utility, prior: Prior = UNIFORM, *, level: float = 0.95, band: float = 0.0) -> Lift:
    """Return the posterior of lift from a memory's counters, or from those of a scope.

    Args:
        utility: Tasks with it (`recalls`, `wins`) and without it (`held_out`, `held_out_wins`).
        prior: Beta prior of both rates; see `pooled_prior`.
        level: Credibility of the interval.
        band: Lift up to which it counts as of no use.
    """
    a, b = prior
    value, low, high, negative, idle = _figures(
        a + utility.wins,
        b + utility.recalls - utility.wins,
        a + utility.held_out_wins,
        b + utility.held_out - utility.held_out_wins,
        level,
        band,
    )
    return Lift(
        value=value, low=low, high=high, level=level, n_with=utility.recalls, wins_with=utility.wins,
        n_without=utility.held_out, wins_without=utility.held_out_wins, p_negative=negative, p_idle=idle,
        band=band,
    )  # fmt: skip


@lru_cache(maxsize=65_536)
def _figures(
    a1: float, b1: float, a0: float, b0: float, level: float, band: float
) -> tuple[float, float, float, float, float]:
    """Return mean, bounds, P(difference < 0) and P(difference < band) of two independent Beta variables."""
    import numpy as np

    one, other = _cdf(a1, b1), _cdf(a0, b0)
    step, first, masses = _difference(one, other)
    cumulative = np.concatenate([[0.0], np.cumsum(masses)])
    edges = first + step * np.arange(len(cumulative))
    tail = (1.0 - level) / 2.0
    low, high = (float(q) for q in np.interp([tail, 1.0 - tail], cumulative, edges))
    negative = _below(one, other)
    idle = float(np.interp(band, edges, cumulative)) if band else negative
    mean = a1 / (a1 + b1) - a0 / (a0 + b0)
    return mean, max(-1.0, low), min(1.0, high), negative, idle


def _below(one: Curve, other: Curve) -> float:
    """Return P(X < Y). The angles of both rates are compared, in which a rate near 0 or 1 is no spike."""
    import numpy as np

    angles = np.union1d(one[0], other[0])
    cdf1, cdf0 = np.interp(angles, *one), np.interp(angles, *other)
    return float(np.sum(np.diff(cdf0) * (cdf1[1:] + cdf1[:-1]) / 2.0))


def _difference(one: Curve, other: Curve) -> tuple[float, float, NDArray[np.float64]]:
    """Return cell width, left end and cell masses of `X - Y`."""
    import numpy as np

    (t1, c1), (t0, c0) = ((np.sin(angles) ** 2, cdf) for angles, cdf in (one, other))
    (lo1, hi1), (lo0, hi0) = _support(t1, c1), _support(t0, c0)
    step = max(hi1 - lo1, hi0 - lo0) / _CELLS
    cells = np.arange(_CELLS + 1) * step
    mass1 = np.diff(np.interp(lo1 + cells, t1, c1))
    mass0 = np.diff(np.interp(lo0 + cells, t0, c0))
    both = np.convolve(mass1 / mass1.sum(), mass0[::-1] / mass0.sum())
    # the difference of two values that are uniform in their cells spreads over two cells: half to each
    spread = np.concatenate([both, [0.0]]) / 2.0 + np.concatenate([[0.0], both]) / 2.0
    return step, lo1 - (lo0 + _CELLS * step), spread


def _support(t: NDArray[np.float64], cdf: NDArray[np.float64]) -> tuple[float, float]:
    """Return the range outside of which next to nothing lies."""
    import numpy as np

    inside = np.flatnonzero((cdf > _TAIL) & (cdf < 1.0 - _TAIL))
    return float(t[max(0, inside[0] - 1)]), float(t[min(len(t) - 1, inside[-1] + 1)])


def _cdf(a: float, b: float) -> Curve:
    """Return angles and the Beta distribution function at `sin(angle)^2`.

    Over the angle the density is smooth but at the very ends, whose two cells are integrated in closed
    form. A Beta variable's angle has a deviation of about `1 / (2 * sqrt(a + b + 1))`: the angles reach 24
    of these to either side.
    """
    import numpy as np

    mean, size = a / (a + b), a + b
    width = 12.0 / np.sqrt(size + 1.0)
    centre = np.arcsin(np.sqrt(mean))
    left, right = max(0.0, centre - width), min(np.pi / 2, centre + width)
    angles = np.linspace(left, right, 4 * _CELLS + 1)
    middle = (angles[1:] + angles[:-1]) / 2.0
    logs = (2 * a - 1) * np.log(np.sin(middle)) + (2 * b - 1) * np.log(np.cos(middle))
    top = logs.max()
    masses = np.exp(logs - top) * (angles[1] - angles[0])
    cut = float(angles[1] - angles[0])
    if left == 0.0:
        masses[0] = np.exp(2 * a * np.log(np.sin(cut)) - top) / (2 * a)
    if right == np.pi / 2:
        masses[-1] = np.exp(2 * b * np.log(np.sin(cut)) - top) / (2 * b)
    cdf = np.concatenate([[0.0], np.cumsum(masses)])
    return angles, cdf / cdf[-1]
