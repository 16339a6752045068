"""Local connectivity: is one filter used everywhere?

:class:`LowRankLocalConv2d` mixes a few filter banks with weights that depend on the position;
:class:`LocalConv2d` has a filter bank for each position.
"""

from convprior.local.functional import local_conv2d, low_rank_local_conv2d
from convprior.local.geometry import Geometry
from convprior.local.layers import LowRankLocalConv2d
from convprior.local.layers_1d import LocalConv1d, LowRankLocalConv1d
from convprior.local.local_conv import LocalConv2d
from convprior.local.optimizer_groups import param_groups

__all__ = [
    "Geometry",
    "LocalConv1d",
    "LocalConv2d",
    "LowRankLocalConv1d",
    "LowRankLocalConv2d",
    "local_conv2d",
    "low_rank_local_conv2d",
    "param_groups",
]
