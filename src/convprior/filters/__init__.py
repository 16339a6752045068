"""Filters: what a convolution filter looks like before data, and what training makes of it.

:class:`FilterPrior` is a Gaussian over the taps of one filter: draw weights from it (a whole
network with :func:`redraw_`), penalize with it, measure it from trained networks, keep it in a
file. :class:`LocoReg` is the weight decay of a network that follows from it or from the costs of
:func:`tap_costs`. :func:`tap_profile` shows how central trained filters are, and
:func:`feature_cohesion` and :func:`predict_taps` how central the statistics of the maps would have
them. ``reference*`` hold the oracles.
"""

from convprior.filters.cohesion.agreement import Agreement
from convprior.filters.cohesion.cohesion import closeness, feature_cohesion, most_cohesive_filter
from convprior.filters.cohesion.lengthscale import (
    LengthscaleFit,
    correlation_by_distance,
    fit_lengthscale,
)
from convprior.filters.cohesion.predict import predict_taps
from convprior.filters.cohesion.prediction import LayerPrediction, TapPrediction
from convprior.filters.cohesion.spatial import SpatialCorrelation, spatial_correlation
from convprior.filters.families import tap_correlation
from convprior.filters.laws import tap_costs, tap_distances
from convprior.filters.locoreg.locoreg import LocoReg
from convprior.filters.prior.filter_prior import FilterPrior
from convprior.filters.prior.redraw import redraw_
from convprior.filters.prior.sets import load_priors, measured_priors, save_priors
from convprior.filters.taps.layer import LayerTaps
from convprior.filters.taps.profile import TapProfile, tap_profile

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
