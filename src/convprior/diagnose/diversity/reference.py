"""The numbers of feature diversity by their definitions: dense, in float64, the oracle of tests."""

import math
from itertools import product

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def reference_variance(features: Array) -> Array:
    """Unbiased variance of all values of each sample, (N, ...) to (N,)."""
    return np.array([np.var(one, ddof=1) for one in features])


def reference_auroc(values: Array, positive: NDArray[np.bool_]) -> float:
    """Share of pairs in which the positive one is larger, ties half."""
    pairs = list(product(values[positive], values[~positive]))
    return float(sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs))


def reference_spearman(x: Array, y: Array) -> float:
    """Pearson's correlation of the ranks, ties sharing their mean."""

    def ranks(values: Array) -> Array:
        below = [float((values < value).sum()) for value in values]
        equal = [float((values == value).sum()) for value in values]
        return np.array(below) + (np.array(equal) + 1) / 2

    return float(np.corrcoef(ranks(x), ranks(y))[0, 1])


def reference_effective_rank(vectors: Array) -> float:
    """``exp`` of the entropy of the normalized eigenvalues of the covariance of (N, C)."""
    values = np.linalg.eigvalsh(np.cov(vectors.T, bias=True))
    shares = [value / values.sum() for value in values if value > 0]
    return math.exp(-sum(share * math.log(share) for share in shares))
