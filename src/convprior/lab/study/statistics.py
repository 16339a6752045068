"""Paired statistics of a study: what the finished cells say about each arm, in plain words.

The unit is a pair: one arm and the baseline with the same data, model, split and seed, hence the
same training images, data order, augmentation and initial weights. Within one (data, model) and
for one arm, with differences d_1..d_n in percentage points:

* the mean of d and Student's t interval, mean +- t(0.975, n-1) * sd / sqrt(n);
* the exact two-sided sign test of "either side is equally likely", ties left out;
* Holm's step-down correction of the sign tests across all arms of this (data, model), an arm
  without a single pair counting as one with p = 1 (the family is what was planned).

Verdict (our choice): "helps" or "hurts" only if the corrected sign test is at most 0.05 *and* the
interval excludes 0 on that side; everything else is "not shown". The sign test alone keeps the
chance of any false verdict within a (data, model) at 5 %; the interval asks in addition that the
mean, which is what people quote, points the same way.
"""

import math
from collections.abc import Mapping, Sequence

from convprior.errors import InputError
from convprior.lab.study import wording
from convprior.lab.study.comparison import Comparison, Summary, Verdict
from convprior.lab.study.rows import Row
from convprior.lab.study.significance import (
    LEVEL,
    Interval,
    holm,
    interval,
    sign_test,
    smallest_p,
)

METRICS = ("accuracy", "balanced_accuracy", "train_accuracy")
# Accuracies are ratios of integers far below 1e9: a smaller difference is rounding, so a tie.
_DECIMALS = 9


def compare(rows: Sequence[Row], baseline: str, metric: str = "accuracy") -> list[Comparison]:
    """Compares every arm with ``baseline``, paired over (split, seed) within (data, model).

    Args:
        rows: the cells of a study, finished or not; order is kept in the result.
        baseline: the arm that the others are compared with.
        metric: one of ``accuracy``, ``balanced_accuracy``, ``train_accuracy``.

    Returns:
        One comparison for each (data, model, arm other than the baseline).

    Raises:
        InputError: no row belongs to ``baseline``; a metric that is not an accuracy; two rows
            for the same cell.
    """
    _check(rows, metric)
    arms = list(dict.fromkeys(row.arm for row in rows))
    if baseline not in arms:
        raise InputError(
            f"the baseline {baseline!r} is no arm of this study; it has {', '.join(arms) or 'none'}"
        )
    comparisons = []
    for data, model in dict.fromkeys((row.data, row.model) for row in rows):
        cells: dict[str, dict[tuple[int, int], Row]] = {}
        for row in rows:
            if (row.data, row.model) == (data, model):
                cells.setdefault(row.arm, {})[row.split, row.seed] = row
        base = cells.pop(baseline, {})
        pairs = {arm: _pairs(base, own, (baseline, arm), metric) for arm, own in cells.items()}
        raw = [sign_test([d for *_, d in found]) for found, _ in pairs.values()]
        for index, (arm, (found, missing)) in enumerate(pairs.items()):
            comparison = _comparison(
                (data, model, arm, baseline, metric), found, missing, raw, index
            )
            comparisons.append(comparison)
    return comparisons


def summarize(rows: Sequence[Row], metric: str = "accuracy") -> list[Summary]:
    """Summarizes every (data, model, arm) by its finished cells, in percent.

    Raises:
        InputError: a metric that is not an accuracy; two rows for the same cell.
    """
    _check(rows, metric)
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.data, row.model, row.arm), []).append(row)
    summaries = []
    for names, own in groups.items():
        values = sorted(
            (row.split, row.seed, 100 * value)
            for row in own
            if (value := _value(row, metric)) is not None
        )
        spread = interval([value for *_, value in values])
        ends = (spread.mean, spread.sd, spread.low, spread.high)
        unfinished = len(own) - len(values)
        summaries.append(Summary(*names, metric, len(values), *ends, values, unfinished))
    return summaries


def _check(rows: Sequence[Row], metric: str) -> None:
    if metric not in METRICS:
        raise InputError(
            f"metric {metric!r} is not an accuracy; choose one of {', '.join(METRICS)}"
        )
    seen = set()
    for row in rows:
        cell = (row.arm, row.data, row.model, row.split, row.seed)
        if cell in seen:
            raise InputError(
                f"two rows for arm {row.arm!r}, data {row.data!r}, model {row.model!r}, "
                f"split {row.split}, seed {row.seed}; a cell counts once, give each row once"
            )
        seen.add(cell)


def _value(row: Row | None, metric: str) -> float | None:
    """The metric of a finished cell, if it is there and a number."""
    if row is None or row.status != "finished" or row.metrics is None:
        return None
    value = row.metrics.get(metric)
    return float(value) if value is not None and math.isfinite(value) else None


def _pairs(
    base: Mapping[tuple[int, int], Row],
    own: Mapping[tuple[int, int], Row],
    names: tuple[str, str],
    metric: str,
) -> tuple[list[tuple[int, int, float]], list[str]]:
    """Differences in points of the pairs, and a line for each pair that cannot be formed."""
    found, missing = [], []
    for split, seed in sorted(base.keys() | own.keys()):
        cells = (base.get((split, seed)), own.get((split, seed)))
        first, second = (_value(cell, metric) for cell in cells)
        if first is not None and second is not None:
            found.append((split, seed, round(100 * (second - first), _DECIMALS)))
            continue
        reasons = [
            f"{name} {wording.reason(cell.status if cell else None)}"
            for name, cell, value in zip(names, cells, (first, second), strict=True)
            if value is None
        ]
        missing.append(f"split {split} seed {seed} ({', '.join(reasons)})")
    return found, missing


def _comparison(
    names: tuple[str, str, str, str, str],
    found: list[tuple[int, int, float]],
    missing: list[str],
    family: list[float],
    index: int,
) -> Comparison:
    """Puts one comparison together; ``family`` holds the p-values of all arms, its own at index."""
    data, model, arm, baseline, metric = names
    values = [difference for *_, difference in found]
    spread = interval(values)
    wins, losses = sum(d > 0 for d in values), sum(d < 0 for d in values)
    p_holm = holm(family)[index]
    verdict = _verdict(spread, wins - losses, p_holm)
    split_means = {
        split: math.fsum(own) / len(own)
        for split in sorted({split for split, *_ in found})
        if (own := [d for s, _, d in found if s == split])
    }
    best = [*family[:index], smallest_p(wins + losses), *family[index + 1 :]]
    reachable = holm(best)[index]
    return Comparison(
        data=data,
        model=model,
        arm=arm,
        baseline=baseline,
        metric=metric,
        pairs=len(found),
        wins=wins,
        losses=losses,
        ties=len(found) - wins - losses,
        mean=spread.mean,
        sd=spread.sd,
        low=spread.low,
        high=spread.high,
        p_value=family[index],
        p_holm=p_holm,
        decidable=reachable <= LEVEL,
        differences=found,
        split_means=split_means,
        missing=missing,
        verdict=verdict,
        headline=wording.headline(arm, baseline, len(found), spread, verdict),
        notes=[
            *wording.too_few(len(found), wins + losses, len(family), reachable),
            *wording.absent(missing),
        ],
        by_split=wording.by_split(split_means, len(found)),
    )


def _verdict(spread: Interval, lead: int, p_holm: float) -> Verdict:
    """``lead`` = wins - losses: the sign test and the interval must point the same way."""
    if p_holm > LEVEL or spread.low is None or spread.high is None:
        return "not shown"
    if spread.low > 0 and lead > 0:
        return "helps"
    return "hurts" if spread.high < 0 and lead < 0 else "not shown"
