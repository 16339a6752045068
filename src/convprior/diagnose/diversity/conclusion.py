"""What the variance of features says about right and wrong answers, in plain words."""

from typing import TYPE_CHECKING

from convprior.diagnose.diversity.deciles import count_text, is_tenth
from convprior.diagnose.diversity.layer import LayerDiversity
from convprior.diagnose.ranks import Estimate
from convprior.diagnose.shares import above_chance

if TYPE_CHECKING:
    from convprior.diagnose.diversity.result import FeatureDiversity

_LEVEL = 0.05
"""Of the test against chance."""
_DISTINCT = 0.5
"""Share of the accuracy above chance below which the lowest tenth is said to lose most of it."""
_SLIGHT, _FAR = 0.1, 0.3
"""Shares of the way from chance to all right: below the first an accuracy is near chance, if it is
also less than twice chance; from the second on it is far from random."""


def conclusion(diversity: "FeatureDiversity") -> str:
    """Do images with more diverse features do better, and is the lowest tenth left to chance?

    Only the last layer speaks, and only images that count in it.
    """
    layer = diversity.layers[-1]
    if not layer.images:
        return "No image has finite features and a finite loss, so nothing can be said."
    return " ".join(filter(None, (_order(layer), _lowest(layer), _left_out(layer))))


def _order(layer: LayerDiversity) -> str:
    """What variance says about being right, and about the loss."""
    right = sum(group.correct for group in layer.deciles)
    if layer.auroc is None:
        which = " that count" if layer.left_out else ""
        answers = "right" if right else "wrong"
        return f"All answers{which} are {answers}, so variance cannot tell right from wrong."
    along = layer.spearman
    loss = f"; rank correlation with the loss {along.value:z.2f}" if along is not None else ""
    numbers = f"(AUROC {layer.auroc}{loss})"
    if layer.auroc.low is None:
        kind = "right" if right == 1 else "wrong"
        return f"A single {kind} answer is too few to say whether variance tells it {numbers}."
    side = _side(layer.auroc, 0.5)
    if not side:
        return f"Feature variance is not shown to tell right answers from wrong ones {numbers}."
    often = "more" if side > 0 else "less"
    return (
        f"Images whose features vary more are classified right {often} often {numbers}"
        f"{_favors(side, along)}."
    )


def _favors(side: int, along: Estimate | None) -> str:
    """Which images get larger weights, where answers and losses say the same of them."""
    # A perfect rank correlation has no interval.
    sure = along is not None and (along.low is None or _side(along, 0))
    if along is None or not sure:
        return ""
    if side * along.value < 0:
        return f", so Bias Loss favors {'easy' if side > 0 else 'hard'} ones"
    return f", yet their loss is {'larger' if along.value > 0 else 'smaller'}"


def _lowest(layer: LayerDiversity) -> str:
    """Whether the predictions of the lowest tenth are random."""
    lowest, accuracy = layer.lowest, layer.accuracy
    if lowest is None or accuracy is None or lowest.chance**lowest.images >= _LEVEL:
        return ""  # With all of them right the test could not have told.
    subject, does = _subject(lowest.images, layer.images)
    numbers = (
        f"({percent(lowest.accuracy)} right, {percent(lowest.chance)} by chance, "
        f"{percent(accuracy)} of all)"
    )
    if lowest.p >= _LEVEL:
        right = sum(group.correct for group in layer.deciles)
        everyone = above_chance(right, layer.images, lowest.chance) >= _LEVEL
        also = ", and neither are all images" if everyone else ""
        are = "is" if does == "does" else "are"
        return f"{subject} {are} not shown to do better than chance{also} {numbers}."
    gain = _gain(lowest.accuracy, lowest.chance)
    if _near(lowest.accuracy, lowest.chance):
        also = ", and so do all images" if _near(accuracy, lowest.chance) else ""
        return f"{subject} {does} only slightly better than chance{also} {numbers}."
    if lowest.kept is not None and lowest.kept < _DISTINCT:
        return f"{subject} {does} better than chance, but far worse than all {numbers}."
    if gain < _FAR:
        return f"{subject} {does} better than chance {numbers}."
    return f"{subject} {'is' if does == 'does' else 'are'} far from random {numbers}."


def _subject(images: int, total: int) -> tuple[str, str]:
    """Who does what: a tenth, or as many images as ties left in the lowest group."""
    if is_tenth(images, total):
        return "The tenth with the least variance", "does"
    if images == 1:
        return "The image with the least variance", "does"
    return f"The {images:,} of {count_text(total)} with the least variance", "do"


def _left_out(layer: LayerDiversity) -> str:
    if not layer.left_out:
        return ""
    everyone = count_text(len(layer.variance))
    return f"{layer.left_out:,} of {everyone} left out, as their features or loss are not finite."


def _gain(accuracy: float, chance: float) -> float:
    """Share of the way from chance to all right."""
    return (accuracy - chance) / (1 - chance)


def _near(accuracy: float, chance: float) -> bool:
    return accuracy < 2 * chance and _gain(accuracy, chance) < _SLIGHT


def percent(share: float) -> str:
    """``8.3 %``."""
    return f"{100 * share:.1f} %"


def _side(estimate: Estimate, null: float) -> int:
    """1 if the interval lies above, -1 if below, 0 if it holds the null or is not defined."""
    if estimate.low is None or estimate.high is None:
        return 0
    return int(estimate.low > null) - int(estimate.high < null)
