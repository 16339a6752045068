"""Images in ten groups by their variance, and whether the lowest one is left to chance."""

from dataclasses import dataclass

from torch import Tensor

from convprior.diagnose.ranks import mid_ranks
from convprior.diagnose.shares import above_chance, wilson

COUNT = 10
"""Groups."""


@dataclass(frozen=True)
class Decile:
    """A tenth of the images.

    Attributes:
        number: 1 for the lowest variance to 10 for the highest.
        images: how many there are; a tenth up to rounding, if no two variances are equal.
        correct: classified correctly.
        accuracy: the share of them.
        low: lower end of its Wilson interval.
        high: upper end.
        loss: mean cross-entropy.
        least: smallest variance.
        most: largest variance.
    """

    number: int
    images: int
    correct: int
    accuracy: float
    low: float
    high: float
    loss: float
    least: float
    most: float


@dataclass(frozen=True)
class LowestDecile:
    """Are the predictions of the images with the lowest variance random?

    Attributes:
        images: of the lowest decile; more than a tenth where many share the lowest variance.
        accuracy: of these.
        chance: accuracy of predictions that are independent of the image, see
            :func:`~convprior.diagnose.shares.accuracy_by_chance`.
        p: exact one-sided binomial test; small where the accuracy is above chance.
        kept: ``(accuracy - chance) / (accuracy of all - chance)``: 0 for random predictions, 1 for
            predictions like all others; None where all images are not above chance either.
    """

    images: int
    accuracy: float
    chance: float
    p: float
    kept: float | None


def deciles(
    variance: Tensor, correct: Tensor, cross_entropy: Tensor, confidence: float = 0.95
) -> tuple[Decile, ...]:
    """Accuracy by decile of variance, from the lowest; deciles without images are left out.

    An image of mean rank r among N is in decile ``1 + floor(10 (r - 1/2) / N)``: equal variances
    share a decile, so that the order of the images does not matter.

    Args:
        variance: (N,), finite.
        correct: (N,) bool.
        cross_entropy: (N,).
        confidence: of the intervals.
    """
    group = ((mid_ranks(variance) - 0.5) * COUNT / max(1, len(variance))).long()
    found = []
    for number in range(COUNT):
        inside = group == number
        images = int(inside.sum())
        if not images:
            continue
        right = int(correct[inside].sum())
        low, high = wilson(right, images, confidence)
        found.append(
            Decile(
                number=number + 1,
                images=images,
                correct=right,
                accuracy=right / images,
                low=low,
                high=high,
                loss=float(cross_entropy[inside].double().mean()),
                least=float(variance[inside].min()),
                most=float(variance[inside].max()),
            )
        )
    return tuple(found)


def lowest_against_chance(groups: tuple[Decile, ...], chance: float) -> LowestDecile | None:
    """Tests the lowest decile that has images against chance; None if there are no two.

    Args:
        groups: from :func:`deciles`.
        chance: accuracy by chance, in (0, 1].
    """
    if len(groups) < 2:
        return None
    lowest = groups[0]
    overall = sum(one.correct for one in groups) / sum(one.images for one in groups)
    kept = (lowest.accuracy - chance) / (overall - chance) if overall > chance else None
    p = above_chance(lowest.correct, lowest.images, chance)
    return LowestDecile(lowest.images, lowest.accuracy, chance, p, kept)


def is_tenth(images: int, total: int) -> bool:
    """Whether a group is a tenth of all up to rounding: no ties made it larger or smaller."""
    return abs(COUNT * images - total) < COUNT and images > 1


def count_text(images: int) -> str:
    """``1 image``, ``2,000 images``."""
    return f"{images:,} image{'' if images == 1 else 's'}"
