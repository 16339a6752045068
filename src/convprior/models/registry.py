"""Networks by name: our own, two families of any size, and all of timm.

Reference code: ``timm.create_model`` and ``timm.list_models``, whose argument names are kept.
"""

import difflib
import fnmatch
import functools
import inspect
import numbers
import re
from collections.abc import Callable

import torch
from torch import nn

from convprior._optional import require
from convprior.errors import InputError
from convprior.models.densenet import densenet121, densenet_bc
from convprior.models.inception import GoogLeNet
from convprior.models.mobilenet import MobileNetV2
from convprior.models.plain import PlainCNN
from convprior.models.resnet import resnet18
from convprior.models.simple_local_net import SimpleLocalNet
from convprior.models.skipnet_sizes import (
    mobilenet_v3_large,
    mobilenet_v3_large_skips,
    skipnet_l,
    skipnet_m,
    skipnet_m_no_skips,
    skipnet_s,
    skipnet_xs,
)
from convprior.models.vgg import vgg11_bn, vgg16_bn
from convprior.models.wide_resnet import WideResNet

_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "densenet121": densenet121,
    "googlenet": GoogLeNet,
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v3_large": mobilenet_v3_large,
    "mobilenet_v3_large_skips": mobilenet_v3_large_skips,
    "plain_cnn": PlainCNN,
    "resnet18": resnet18,
    "simple_local_net": SimpleLocalNet,
    "skipnet_l": skipnet_l,
    "skipnet_m": skipnet_m,
    "skipnet_m_no_skips": skipnet_m_no_skips,
    "skipnet_s": skipnet_s,
    "skipnet_xs": skipnet_xs,
    "vgg11_bn": vgg11_bn,
    "vgg16_bn": vgg16_bn,
}
# Families whose names carry two sizes: pattern of the name, builder, members that are listed.
_FAMILIES: tuple[tuple[str, Callable[..., nn.Module], tuple[str, ...]], ...] = (
    (r"wrn(\d+)_(\d+)", WideResNet, ("wrn16_2", "wrn16_8", "wrn28_10", "wrn40_2")),
    (r"densenet_bc(\d+)_(\d+)", densenet_bc, ("densenet_bc40_12", "densenet_bc100_12")),
)
_TIMM = "timm:"
_REAL_WIDTHS = ("skipnet", "mobilenet_v3")


def create_model(
    name: str,
    num_classes: int = 10,
    in_chans: int = 3,
    small_input: bool = False,
    *,
    seed: int | None = None,
    **options: object,
) -> nn.Module:
    """Builds a network that maps images (n, in_chans, h, w) to logits (n, num_classes).

    Args:
        name: one of :func:`list_models`, ``wrn{depth}_{width}`` or
            ``densenet_bc{depth}_{growth}`` with depth = 6n + 4, or ``timm:NAME`` for any network
            of timm (untrained unless ``pretrained=True``).
        num_classes: number of logits.
        in_chans: channels of the images.
        small_input: the form for small images (8 or 28 to 64 px; each network's class says what
            it changes). timm's networks have stems of their own and refuse it.
        seed: initial weights become a pure function of it and the global random state is neither
            read nor changed; ``None`` draws from the global state, as PyTorch's layers do.
        **options: the network's own options, such as ``width`` (channels of the first stage),
            ``batch_norm`` of ``plain_cnn``, ``dropout`` of a wide ResNet, or any keyword of the
            timm network.

    Raises:
        InputError: an unknown name or option, or a size that is not positive.
        MissingExtraError: a ``timm:`` name where timm is not installed.

    Example:
        >>> create_model("wrn16_2", num_classes=10, in_chans=1, small_input=True, seed=0).fc
        Linear(in_features=128, out_features=10, bias=True)
    """
    _check_positive("num_classes", num_classes)
    _check_positive("in_chans", in_chans)
    build = _builder(name, small_input)
    # The builder of timm checks its own keywords.
    if not name.startswith(_TIMM):
        _check_options(name, build, options)
        if not name.startswith(_REAL_WIDTHS):  # those check it themselves
            _check_positive("width", options.get("width", 1))
        options["small_input"] = small_input
    make = functools.partial(build, num_classes=num_classes, in_chans=in_chans, **options)
    return make() if seed is None else _seeded(make, seed)


def list_models(pattern: str | None = None) -> list[str]:
    """Names for :func:`create_model`, sorted.

    Wide ResNets and DenseNets of other sizes work too: ``wrn{depth}_{width}``,
    ``densenet_bc{depth}_{growth}``.

    Args:
        pattern: shell-style filter such as ``"vgg*"``; ``"timm:resnet*"`` lists timm's networks.

    Raises:
        MissingExtraError: a ``timm:`` pattern where timm is not installed.

    Example:
        >>> list_models("*_bn")
        ['vgg11_bn', 'vgg16_bn']
    """
    if pattern is not None and pattern.startswith(_TIMM):
        found = require("timm", "timm").list_models(pattern.removeprefix(_TIMM))
        return [_TIMM + name for name in found]
    listed = (name for _, _, members in _FAMILIES for name in members)
    names = sorted((*_NETWORKS, *listed))
    return names if pattern is None else fnmatch.filter(names, pattern)


def _builder(name: str, small_input: bool) -> Callable[..., nn.Module]:
    if name.startswith(_TIMM):
        return _timm_builder(name.removeprefix(_TIMM), small_input)
    if name in _NETWORKS:
        return _NETWORKS[name]
    for pattern, family, _ in _FAMILIES:
        if sizes := re.fullmatch(pattern, name):
            return functools.partial(family, int(sizes[1]), int(sizes[2]))
    raise _unknown(
        name,
        list_models(),
        "list_models() has all; any wrn{6n+4}_{width} and densenet_bc{6n+4}_{growth} works too, "
        "and timm's networks as timm:NAME",
    )


def _timm_builder(name: str, small_input: bool) -> Callable[..., nn.Module]:
    timm = require("timm", "timm")
    if small_input:
        raise InputError(
            f"timm:{name} has a stem of its own, which small_input=True cannot replace; give "
            "small_input=False, larger images, or the stem options that timm's network offers"
        )
    # A name with a scheme, such as hf-hub:owner/model, is timm's to resolve.
    if ":" not in name and not timm.is_model(name):
        raise _unknown(
            _TIMM + name,
            [_TIMM + known for known in timm.list_models()],
            f"timm {timm.__version__} does not have it",
        )
    return functools.partial(timm.create_model, name)


def _unknown(name: str, known: list[str], hint: str) -> InputError:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    meant = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known[:9])}."
    return InputError(f"there is no network {name!r}; {meant} ({hint})")


def _check_positive(argument: str, value: object) -> None:
    if not isinstance(value, numbers.Integral) or int(value) < 1:
        raise InputError(f"{argument}={value!r} is not positive; give a whole number, at least 1")


def _check_options(name: str, build: Callable[..., nn.Module], options: dict[str, object]) -> None:
    parameters = inspect.signature(build).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            offered = f"its options are {', '.join(known)}" if known else "it has none"
            raise InputError(f"{name} has no option {option!r}; {offered}")


def _seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Calls ``make`` with the CPU's generator at ``seed`` and puts the generator back.

    Weights are drawn on the CPU whatever the default device, so that every device gets the same.
    """
    device = torch.get_default_device()
    with (
        torch.random.fork_rng(devices=[]),
        torch.device("meta" if device.type == "meta" else "cpu"),
    ):
        torch.default_generator.manual_seed(seed)
        return make().to(device)
