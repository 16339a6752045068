"""Filters: what a convolution filter looks like before data.

:class:`FilterPrior` is a Gaussian over the taps of one filter: draw weights from it, penalize
with it, measure it from a trained network. :class:`LocoReg` is the position-aware weight decay
that its diagonal form gives, with costs from :func:`tap_costs`. ``reference`` holds the oracles.
"""

from convprior.filters.families import tap_correlation
from convprior.filters.laws import tap_costs, tap_distances
from convprior.filters.locoreg import LocoReg
from convprior.filters.prior import FilterPrior
from convprior.filters.prior_sets import load_priors, measured_priors, save_priors
from convprior.filters.tap_profile import LayerTaps, TapProfile, tap_profile

__all__ = [
    "FilterPrior",
    "LayerTaps",
    "LocoReg",
    "TapProfile",
    "load_priors",
    "measured_priors",
    "save_priors",
    "tap_correlation",
    "tap_costs",
    "tap_distances",
    "tap_profile",
]
