"""Local connectivity: is one filter used everywhere?

:class:`LowRankLocalConv2d` mixes a few filter banks with weights that depend on the position;
:class:`LocalConv2d` has a filter bank for each position. :func:`localize` puts them into a trained
network without changing its function, and :func:`invariance_report` says how far they moved from
convolutions since.
"""

from convprior.local.functional import local_conv2d, low_rank_local_conv2d
from convprior.local.geometry import Geometry
from convprior.local.layers.local_conv import LocalConv2d
from convprior.local.layers.one_d import LocalConv1d, LowRankLocalConv1d
from convprior.local.layers.optimizer_groups import param_groups
from convprior.local.layers.two_d import LowRankLocalConv2d
from convprior.local.learned.invariance import InvarianceReport, LayerInvariance, invariance_report
from convprior.local.learned.maps import CombiningMaps, combining_maps
from convprior.local.paths import use_path
from convprior.local.surgery.delocalize import delocalize, to_conv
from convprior.local.surgery.localizable import LocalizableLayer, LocalizableLayers, localizable
from convprior.local.surgery.localize import localize
from convprior.local.surgery.relax import relax_
from convprior.local.surgery.resize_network import resize_positions

__all__ = [
    "CombiningMaps",
    "Geometry",
    "InvarianceReport",
    "LayerInvariance",
    "LocalConv1d",
    "LocalConv2d",
    "LocalizableLayer",
    "LocalizableLayers",
    "LowRankLocalConv1d",
    "LowRankLocalConv2d",
    "combining_maps",
    "delocalize",
    "invariance_report",
    "local_conv2d",
    "localizable",
    "localize",
    "low_rank_local_conv2d",
    "param_groups",
    "relax_",
    "resize_positions",
    "to_conv",
    "use_path",
]
