"""What the statistics of a study find, as plain data: the only thing tables and reports read."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["helps", "hurts", "not shown"]


@dataclass(frozen=True)
class Comparison:
    """One arm against the baseline on one (data, model); numbers in percentage points."""

    data: str
    model: str
    arm: str
    baseline: str
    metric: str
    pairs: int
    """Pairs finished in both arms."""
    wins: int
    """Pairs in which the arm is better; ``losses`` and ``ties`` likewise."""
    losses: int
    ties: int
    mean: float | None
    """Mean difference, arm minus baseline; None without a pair."""
    sd: float | None
    """Standard deviation of the differences; None below two pairs, as are ``low`` and ``high``."""
    low: float | None
    high: float | None
    p_value: float
    """Exact two-sided sign test; 1 when no pair differs."""
    p_holm: float
    """The same after Holm's correction across the arms of this (data, model)."""
    decidable: bool
    """Whether some outcome of this many pairs could have passed the corrected sign test."""
    differences: list[tuple[int, int, float]]
    """(split, seed, difference) of every pair, in that order."""
    split_means: dict[int, float]
    """Mean difference of each split: seeds that share a split share their training images."""
    missing: list[str]
    """One entry a pair that could not be formed: which, and why."""
    verdict: Verdict
    headline: str
    """The result in one clause: difference, interval, number of pairs, verdict."""
    notes: list[str]
    """What a reader must know to judge the headline: too few pairs, missing pairs."""
    by_split: str
    """The means of the splits in words; empty when every pair has a split of its own."""

    @property
    def sentence(self) -> str:
        """The headline and what qualifies it as one sentence."""
        return "; ".join(filter(None, [self.headline, *self.notes, self.by_split]))


@dataclass(frozen=True)
class Summary:
    """One arm on one (data, model): its finished cells, in percent."""

    data: str
    model: str
    arm: str
    metric: str
    n: int
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    """Ends of Student's t interval of the mean over cells; None below two cells."""
    values: list[tuple[int, int, float]]
    """(split, seed, value) of every finished cell."""
    unfinished: int
