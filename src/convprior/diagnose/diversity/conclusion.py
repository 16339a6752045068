"""What the variance of features says about right and wrong answers, in plain words."""

from typing import TYPE_CHECKING

from convprior.diagnose.diversity.layer import LayerDiversity
from convprior.diagnose.ranks import Estimate
from convprior.diagnose.shares import above_chance

if TYPE_CHECKING:
    from convprior.diagnose.diversity.result import FeatureDiversity

_LEVEL = 0.05
"""Of the test against chance."""
_DISTINCT = 0.5
"""Share of the accuracy above chance below which the lowest tenth is said to lose most of it."""


def conclusion(diversity: "FeatureDiversity") -> str:
    """Do images with more diverse features do better, and is the lowest tenth left to chance?"""
    layer = diversity.layers[-1]
    if not layer.images:
        return "No image has finite features and a finite loss, so nothing can be said."
    return " ".join(filter(None, (_order(layer), _lowest(layer, diversity.accuracy))))


def _order(layer: LayerDiversity) -> str:
    """What variance says about being right, and about the loss."""
    if layer.auroc is None:
        right = any(group.correct for group in layer.deciles)
        answers = "right" if right else "wrong"
        return f"All answers are {answers}, so variance cannot tell right from wrong."
    along = layer.spearman
    loss = f"; rank correlation with the loss {along.value:.2f}" if along is not None else ""
    numbers = f"(AUROC {layer.auroc}{loss})"
    side = _side(layer.auroc, 0.5)
    if not side:
        return f"Feature variance is not shown to tell right answers from wrong ones {numbers}."
    often = "more" if side > 0 else "less"
    favors = "easy" if side > 0 else "hard"
    return (
        f"Images whose features vary more are classified right {often} often {numbers}, so Bias "
        f"Loss favors {favors} ones."
    )


def _lowest(layer: LayerDiversity, accuracy: float) -> str:
    """Whether the predictions of the lowest tenth are random."""
    lowest = layer.lowest
    if lowest is None:
        return ""
    numbers = (
        f"{percent(lowest.accuracy)} right, {percent(lowest.chance)} by chance, "
        f"{percent(accuracy)} of all"
    )
    if lowest.p >= _LEVEL:
        right = sum(group.correct for group in layer.deciles)
        everyone = above_chance(right, layer.images, lowest.chance) >= _LEVEL
        return (
            "The tenth with the least variance is not shown to do better than chance"
            f"{', and neither are all images' if everyone else ''} ({numbers})."
        )
    kept = lowest.kept
    if kept is not None and kept < _DISTINCT:
        return (
            "The tenth with the least variance does better than chance, but far worse than all "
            f"({numbers})."
        )
    return f"The tenth with the least variance is far from random ({numbers})."


def percent(share: float) -> str:
    """``8.3 %``."""
    return f"{100 * share:.1f} %"


def _side(estimate: Estimate, null: float) -> int:
    """1 if the interval lies above, -1 if below, 0 if it holds the null or is not defined."""
    if estimate.low is None or estimate.high is None:
        return 0
    return int(estimate.low > null) - int(estimate.high < null)
