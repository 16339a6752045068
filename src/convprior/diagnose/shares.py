"""What a count of correct answers says: the interval of a share, and the test against chance."""

import math
from statistics import NormalDist

import torch
from torch import Tensor


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share.

    Args:
        successes: 0 to ``trials``.
        trials: at least 1.
        confidence: in (0, 1).

    Source: Wilson (1927).
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, scale = successes / trials, 1 + z * z / trials
    middle = (share + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


def above_chance(successes: int, trials: int, chance: float) -> float:
    """Exact p-value of "no more successes than by chance": P(X >= successes), X binomial.

    Args:
        successes: 0 to ``trials``.
        trials: how many.
        chance: probability of a success by chance, in (0, 1].
    """
    if chance >= 1:
        return 1.0
    k = torch.arange(successes, trials + 1, dtype=torch.float64)
    n = torch.tensor(float(trials), dtype=torch.float64)
    log_choose = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    terms = log_choose + k * math.log(chance) + (n - k) * math.log1p(-chance)
    return min(1.0, float(terms.logsumexp(0).exp()))


def accuracy_by_chance(
    classes: int, predictions: Tensor | None = None, labels: Tensor | None = None
) -> float:
    r"""Accuracy of predictions that are independent of the image.

    ``max(1 / classes, sum_k P(prediction = k) P(label = k))``: the better of a guess that gives
    every class the same chance, and of the network's own predictions dealt out to the images at
    random. The two are the same where predictions or labels are balanced; the second is larger
    where one class is common, or few of the classes occur.

    Args:
        classes: number of logits.
        predictions: (N,) class numbers, -1 where the network gave none; None: not known.
        labels: (N,) class numbers; None: not known.

    Source: the agreement expected by chance of Cohen's kappa (1960).
    """
    if predictions is None or labels is None or not len(labels):
        return 1 / classes
    guessed = torch.bincount(predictions[predictions >= 0], minlength=classes).double()
    occurring = torch.bincount(labels, minlength=classes).double()
    return max(1 / classes, float(guessed @ occurring) / len(labels) ** 2)
