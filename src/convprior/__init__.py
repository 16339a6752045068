"""The spatial prior of convolutional networks: parts for any training loop, and a fair study.

The names used daily are here and are imported when first used; the rest lives in its room:
``convprior.filters``, ``convprior.local``, ``convprior.losses``, ``convprior.models``,
``convprior.lab``.
"""

import importlib
from typing import TYPE_CHECKING, Any

from convprior._timm_hook import register_in_timm as _register_in_timm
from convprior._version import __version__
from convprior.errors import ConvPriorError

if TYPE_CHECKING:
    from convprior.filters import FilterPrior, LocoReg
    from convprior.local import LocalConv2d, LowRankLocalConv2d, localize
    from convprior.losses import BiasLoss
    from convprior.models import create_model, list_models

_ROOM = {
    "BiasLoss": "losses",
    "FilterPrior": "filters",
    "LocalConv2d": "local",
    "LocoReg": "filters",
    "LowRankLocalConv2d": "local",
    "create_model": "models",
    "list_models": "models",
    "localize": "local",
}

__all__ = [
    "BiasLoss",
    "ConvPriorError",
    "FilterPrior",
    "LocalConv2d",
    "LocoReg",
    "LowRankLocalConv2d",
    "__version__",
    "create_model",
    "list_models",
    "localize",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOM:
        raise AttributeError(f"module 'convprior' has no attribute {name!r}")
    return getattr(importlib.import_module(f"convprior.{_ROOM[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


_register_in_timm()
