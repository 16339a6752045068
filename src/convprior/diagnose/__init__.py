"""Diagnosis: what a trained network learned, measured on images.

:func:`feature_diversity` asks whether features that vary little mean predictions that are random,
which is what :class:`~convprior.losses.BiasLoss` supposes.
"""

from convprior.diagnose.diversity.deciles import Decile, LowestDecile
from convprior.diagnose.diversity.feature_diversity import feature_diversity
from convprior.diagnose.diversity.layer import LayerDiversity
from convprior.diagnose.diversity.result import FeatureDiversity
from convprior.diagnose.diversity.spectrum import Rank
from convprior.diagnose.diversity.weights import BiasLossWeights
from convprior.diagnose.ranks import Estimate

__all__ = [
    "BiasLossWeights",
    "Decile",
    "Estimate",
    "FeatureDiversity",
    "LayerDiversity",
    "LowestDecile",
    "Rank",
    "feature_diversity",
]
