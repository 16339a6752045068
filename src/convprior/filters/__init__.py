"""Filters: what a convolution filter looks like before data, and what training makes of it.

:class:`FilterPrior` is a Gaussian over the taps of one filter: draw weights from it (a whole
network with :func:`redraw_`), penalize with it, measure it from trained networks, keep it in a
file. :class:`LocoReg` is the weight decay of a network that follows from it or from the costs of
:func:`tap_costs`. :func:`tap_profile` shows how central trained filters are, and
:func:`feature_cohesion` and :func:`predict_taps` how central the statistics of the maps would have
them. ``reference*`` hold the oracles.
"""

from convprior.filters.agreement import Agreement
from convprior.filters.cohesion import closeness, feature_cohesion, most_cohesive_filter
from convprior.filters.families import tap_correlation
from convprior.filters.laws import tap_costs, tap_distances
from convprior.filters.layer_taps import LayerTaps
from convprior.filters.lengthscale import (
    LengthscaleFit,
    correlation_by_distance,
    fit_lengthscale,
)
from convprior.filters.locoreg import LocoReg
from convprior.filters.predict import predict_taps
from convprior.filters.prediction import LayerPrediction, TapPrediction
from convprior.filters.prior import FilterPrior
from convprior.filters.prior_sets import load_priors, measured_priors, save_priors
from convprior.filters.redraw import redraw_
from convprior.filters.spatial import SpatialCorrelation, spatial_correlation
from convprior.filters.tap_profile import TapProfile, tap_profile

__all__ = [
    "Agreement",
    "FilterPrior",
    "LayerPrediction",
    "LayerTaps",
    "LengthscaleFit",
    "LocoReg",
    "SpatialCorrelation",
    "TapPrediction",
    "TapProfile",
    "closeness",
    "correlation_by_distance",
    "feature_cohesion",
    "fit_lengthscale",
    "load_priors",
    "measured_priors",
    "most_cohesive_filter",
    "predict_taps",
    "redraw_",
    "save_priors",
    "spatial_correlation",
    "tap_correlation",
    "tap_costs",
    "tap_distances",
    "tap_profile",
]
