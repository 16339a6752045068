"""SkipNets in timm's registry: ``timm.create_model("convprior_skipnet_m")``.

Importing this module registers them; ``import convprior`` does so as soon as timm is there. They
are the networks of :mod:`convprior.models.skipnet` under timm's keywords: ``num_classes`` (0 for
none), ``in_chans``, ``global_pool`` ("avg", or "" for none), ``drop_rate``, ``features_only`` with
``out_indices``; and the network's own, ``width`` and ``small_input``.

Differences from timm's networks: ``drop_rate`` is the paper's 0.2 unless given, and there are no
trained weights.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from convprior.errors import InputError
from convprior.models import skipnet_sizes as sizes
from convprior.models.skipnet import SkipNet

_CFG = {
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "min_input_size": (3, 32, 32),
    "pool_size": (7, 7),
    "crop_pct": 0.875,
    "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.406),  # of ImageNet
    "std": (0.229, 0.224, 0.225),
    "first_conv": "features.0.0",
    "classifier": "classifier.3",
    "license": "apache-2.0",
    "paper_ids": "arXiv:2107.11170",
    "paper_name": "Bias Loss for Mobile Neural Networks",
}
_V3 = {
    "paper_ids": "arXiv:1905.02244",
    "paper_name": "Searching for MobileNetV3",
}
# timm looks for this name in the module of a function that is registered.
default_cfgs = generate_default_cfgs(
    {
        "convprior_skipnet_xs": _CFG,
        "convprior_skipnet_s": _CFG,
        "convprior_skipnet_m": _CFG,
        "convprior_skipnet_l": _CFG,
        "convprior_skipnet_m_no_skips": _CFG,
        "convprior_mobilenet_v3_large": _CFG | _V3,
        "convprior_mobilenet_v3_large_skips": _CFG | _V3,
    }
)


@register_model
def convprior_skipnet_xs(pretrained: bool = False, **options: Any) -> nn.Module:
    """SkipNet-XS: 2.3M parameters, 76M multiply-adds."""
    return _build(sizes.skipnet_xs, pretrained, options)


@register_model
def convprior_skipnet_s(pretrained: bool = False, **options: Any) -> nn.Module:
    """SkipNet-S: 3.6M parameters, 170M multiply-adds."""
    return _build(sizes.skipnet_s, pretrained, options)


@register_model
def convprior_skipnet_m(pretrained: bool = False, **options: Any) -> nn.Module:
    """SkipNet-M: 5.5M parameters, 237M multiply-adds."""
    return _build(sizes.skipnet_m, pretrained, options)


@register_model
def convprior_skipnet_l(pretrained: bool = False, **options: Any) -> nn.Module:
    """SkipNet-L: 7.1M parameters, 352M multiply-adds."""
    return _build(sizes.skipnet_l, pretrained, options)


@register_model
def convprior_skipnet_m_no_skips(pretrained: bool = False, **options: Any) -> nn.Module:
    """SkipNet-M without its two skips."""
    return _build(sizes.skipnet_m_no_skips, pretrained, options)


@register_model
def convprior_mobilenet_v3_large(pretrained: bool = False, **options: Any) -> nn.Module:
    """MobileNetV3-Large, as torchvision's: 5.5M parameters, 217M multiply-adds."""
    return _build(sizes.mobilenet_v3_large, pretrained, options)


@register_model
def convprior_mobilenet_v3_large_skips(pretrained: bool = False, **options: Any) -> nn.Module:
    """MobileNetV3-Large with SkipNet's two skips."""
    return _build(sizes.mobilenet_v3_large_skips, pretrained, options)


def _build(network: Callable[..., SkipNet], pretrained: bool, options: dict[str, Any]) -> nn.Module:
    """Has timm assemble it: defaults of the configuration, weights, wrapper for features."""
    return build_model_with_cfg(
        partial(_from_timm_keywords, network),
        f"convprior_{network.__name__}",
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2, 3, 4), "feature_cls": "getter"},
        **options,
    )


def _from_timm_keywords(
    network: Callable[..., SkipNet],
    *,
    drop_rate: float | None = None,
    global_pool: str = "avg",
    drop_path_rate: float = 0.0,
    **options: Any,
) -> SkipNet:
    if drop_path_rate:
        raise InputError(
            f"drop_path_rate={drop_path_rate} is not offered; leave it out, or give drop_rate"
        )
    model = network(dropout=drop_rate, **options)
    if global_pool != "avg":
        model.reset_classifier(model.num_classes, global_pool)
    return model
