"""The three statistics of a list of paired differences: t interval, sign test, Holm's correction.

References: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian
Journal of Statistics 6 (1979); W. J. Dixon and A. M. Mood, "The statistical sign test", JASA 41
(1946), which also leaves the ties out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from convprior._optional import require

LEVEL = 0.05
"""The level of every test, and 1 - level the coverage of every interval."""


@dataclass(frozen=True)
class Interval:
    """Mean, standard deviation and Student's t interval of numbers; None where undefined."""

    mean: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None


def interval(values: Sequence[float]) -> Interval:
    """Mean, standard deviation (n - 1) and ``mean +- t(0.975, n - 1) sd / sqrt(n)``.

    Identical values give an interval of width 0, one value gives a mean only, none nothing.
    """
    n = len(values)
    if n == 0:
        return Interval()
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean)
    if len(set(values)) == 1:  # said exactly, not up to the rounding of the mean
        return Interval(values[0], 0.0, values[0], values[0])
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    student = require("scipy.stats", "lab").t
    half = float(student.ppf(1 - LEVEL / 2, n - 1)) * sd / math.sqrt(n)
    return Interval(mean, sd, mean - half, mean + half)


def sign_test(differences: Sequence[float]) -> float:
    """Exact two-sided p-value of "a difference is positive with probability 1/2", without ties.

    1 when no difference is left.
    """
    wins = sum(difference > 0 for difference in differences)
    n = wins + sum(difference < 0 for difference in differences)
    if n == 0:
        return 1.0
    return float(require("scipy.stats", "lab").binomtest(wins, n, 0.5).pvalue)


def smallest_p(n: int) -> float:
    """The sign test's p-value when all of ``n`` differences point the same way: ``2 * 0.5**n``."""
    return min(1.0, 2 * 0.5**n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given.

    With p sorted ascending, the k-th of m becomes the largest of ``(m - j) * p_j`` over j <= k
    (counting from 0), at most 1.
    """
    m = len(p_values)
    adjusted = [1.0] * m
    largest = 0.0
    for rank, index in enumerate(sorted(range(m), key=p_values.__getitem__)):
        largest = max(largest, (m - rank) * p_values[index])
        adjusted[index] = min(1.0, largest)
    return adjusted


def pairs_needed(arms: int) -> int:
    """Pairs that suffice for the corrected sign test when all of them point the same way.

    The smallest n with ``arms * 2 * 0.5**n <= 0.05``: 6 for one arm, 7 for two or three.
    """
    n = 1
    while arms * smallest_p(n) > LEVEL:
        n += 1
    return n
