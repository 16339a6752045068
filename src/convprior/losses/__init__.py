"""Losses that weigh examples by the diversity of their features, and those to compare them with.

:class:`BiasLoss` is cross-entropy in which examples with diverse features count more, with the
controls that a fair comparison needs; :func:`bias_weights` and :func:`feature_variance` are its
parts. The rivals (focal, Poly-1, generalized, symmetric and Taylor cross-entropy) come as functions
and as modules. ``reference`` holds the oracles.
"""

from convprior.losses.bias import BiasLoss
from convprior.losses.rivals import (
    FocalLoss,
    GeneralizedCrossEntropy,
    Poly1Loss,
    SymmetricCrossEntropy,
    TaylorCrossEntropy,
    focal_loss,
    generalized_cross_entropy,
    poly1_loss,
    symmetric_cross_entropy,
    taylor_cross_entropy,
)
from convprior.losses.tap import FeatureTap
from convprior.losses.variance import feature_variance
from convprior.losses.weights import bias_weights

__all__ = [
    "BiasLoss",
    "FeatureTap",
    "FocalLoss",
    "GeneralizedCrossEntropy",
    "Poly1Loss",
    "SymmetricCrossEntropy",
    "TaylorCrossEntropy",
    "bias_weights",
    "feature_variance",
    "focal_loss",
    "generalized_cross_entropy",
    "poly1_loss",
    "symmetric_cross_entropy",
    "taylor_cross_entropy",
]
