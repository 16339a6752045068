"""The words of the statistics: one place, so that terminal, table and report say the same."""

from collections.abc import Mapping, Sequence

from convprior.lab.study.comparison import Comparison
from convprior.lab.study.significance import LEVEL, Interval, pairs_needed, smallest_p

_NAMED = 6
"""Missing pairs named in a sentence; the rest are counted (the report lists every cell)."""


def headline(arm: str, baseline: str, pairs: int, spread: Interval, verdict: str) -> str:
    """``arm - baseline = +0.4 points, 95 % interval -0.3 to 1.1, 5 pairs: not shown to help``."""
    name = f"{arm} - {baseline}"
    if spread.mean is None:
        return f"{name}: no pair finished in both arms, so nothing can be said"
    if verdict == "not shown":
        side = "help" if spread.mean > 0 else "hurt"
        verdict = "no difference shown" if spread.mean == 0 else f"not shown to {side}"
    if spread.low is None or spread.high is None:
        difference = points(spread.mean, decimals(abs(spread.mean)), sign=True)
        return f"{name} = {difference} points, 1 pair, so no interval: {verdict}"
    places = decimals((spread.high - spread.low) / 2)
    if any(end and not round(end, places) for end in (spread.low, spread.high)):
        places = 2  # an end beside zero must not look like zero
    return (
        f"{name} = {points(spread.mean, places, sign=True)} points, 95 % interval "
        f"{points(spread.low, places)} to {points(spread.high, places)}, "
        f"{count(pairs, 'pair')}: {verdict}"
    )


def too_few(pairs: int, untied: int, arms: int, smallest: float) -> list[str]:
    """Says when no outcome of this many pairs could have passed the corrected sign test.

    Args:
        pairs: pairs found.
        untied: those that differ, which alone enter the sign test.
        arms: arms compared with the baseline, Holm's family.
        smallest: the least corrected p-value that ``untied`` pairs could have given.
    """
    if untied == 0 or smallest <= LEVEL:
        return []
    ties = f" without the {count(pairs - untied, 'tie')}" if pairs > untied else ""
    why = f"2 x 0.5^{untied} = {smallest_p(untied):.4g}"
    if smallest_p(untied) <= LEVEL:
        why = f"p is at least {smallest:.2g} when corrected for {count(arms, 'arm')}"
    return [
        f"{count(untied, 'pair')}{ties} cannot reach {LEVEL:g} in a sign test ({why}): with "
        f"{count(arms, 'arm')} compared, {pairs_needed(arms)} pairs all on one side are enough"
    ]


def absent(missing: Sequence[str]) -> list[str]:
    """Names the pairs that could not be formed."""
    if not missing:
        return []
    named = ", ".join(missing[:_NAMED])
    rest = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    return [f"{count(len(missing), 'pair')} missing: {named}{rest}"]


def by_split(means: Mapping[int, float], pairs: int) -> str:
    """The means of the splits, when seeds share them; else nothing."""
    if len(means) == pairs:
        return ""
    if len(means) == 1:
        return f"all pairs share split {next(iter(means))}"
    if len(means) <= _NAMED:
        listed = ", ".join(points(mean, 2, sign=True) for mean in means.values())
    else:
        ends = min(means.values()), max(means.values())
        listed = " to ".join(points(end, 2, sign=True) for end in ends)
    return f"mean by split: {listed}"


def remarks(comparisons: Sequence[Comparison]) -> list[str]:
    """What holds for all comparisons of a study: the rule of the verdict, and its limits."""
    if not comparisons:
        return []
    arms = len({one.arm for one in comparisons})
    corrected = f", corrected by Holm for {arms} arms," if arms > 1 else ""
    rule = (
        f"helps / hurts: the exact sign test{corrected} gives p <= {LEVEL:g} and the 95 % interval "
        "excludes 0 on the same side. Not shown is not the same as no effect."
    )
    lines = [rule]
    settings = len({(one.data, one.model) for one in comparisons})
    if settings > 1:
        lines.append(
            "The correction is made within each data set and network, not across these "
            f"{settings}: of many verdicts a few may be false, so look for what repeats."
        )
    shared = {
        split
        for one in comparisons
        if one.pairs > len(one.split_means)
        for split in one.split_means
    }
    if shared:
        where = "one split" if len(shared) == 1 else f"these {len(shared)} splits"
        lines.append(
            "Several seeds share a split, hence its training images: intervals and tests speak "
            f"about {where} of the data, not about other samples of it. "
            "More splits say more than more seeds."
        )
    return lines


def reason(status: str | None) -> str:
    """Why a cell gives no value, as a verb phrase after the arm's name."""
    phrases = {
        None: "was not planned",
        "finished": "has no such metric",
        "waiting": "has not run",
        "interrupted": "was interrupted",
    }
    return phrases.get(status, status or "")


def count(number: int, noun: str) -> str:
    """``1 pair``, ``5 pairs``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def decimals(width: float) -> int:
    """Decimals that show a quantity of this size: one from half a point upward, else two."""
    return 1 if width >= 0.5 else 2


def points(value: float, places: int = 1, *, sign: bool = False) -> str:
    """A number of points without a negative zero, with a plus sign on request."""
    rounded = round(value, places) + 0.0
    return f"{rounded:+.{places}f}" if sign and rounded else f"{rounded:.{places}f}"
