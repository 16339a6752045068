"""Local layers in the place of a network's convolutions, freshly drawn: to train from scratch."""

from typing import Any, Literal

from torch import nn

from convprior._random import mix
from convprior.errors import InputError
from convprior.filters.prior.redraw import number_of
from convprior.local.layers.combining import Normalize, WeightsMode
from convprior.local.layers.shuffled import ShuffledLocalConv2d
from convprior.local.surgery.replacement import (
    arguments_of,
    drawing,
    local_class,
    memory_format_of,
    mode_of,
    network_to_change,
    replace_layers,
)
from convprior.local.surgery.survey import Layers, Site, check_ties, survey

Kind = Literal["low_rank", "local", "spatial_bias"]
_ORDER = 2
"""Counter of the positions' order, beside those of :func:`convprior.filters.redraw_`."""


def relax_(
    model: nn.Module,
    example_input: Any,
    *,
    kind: Kind = "low_rank",
    rank: int = 4,
    layers: Layers = None,
    seed: int = 0,
    weights: WeightsMode = "separable",
    normalize: Normalize = "softmax",
    spatial_bias: bool = True,
    init: str | None = None,
    shuffle_positions: bool = False,
    subclasses: bool = False,
) -> tuple[str, ...]:
    """Replaces convolutions in place by fresh local layers.

    A layer's draw is a pure function of ``seed`` and its name, the one that
    :func:`convprior.filters.redraw_` gives it. To keep what the convolutions have learned, use
    :func:`convprior.local.localize`.

    Args:
        model: a network; not yet wrapped for data-parallel training.
        example_input: as in :func:`convprior.local.localize`.
        kind: ``low_rank``; ``local``, a kernel for each position; or ``spatial_bias``, a
            convolution and one scalar a position, which is a local layer of rank 1.
        rank: basis filter banks of ``low_rank``.
        layers: as in :func:`convprior.local.localize`.
        seed: any int.
        weights: of the low-rank layers, as ``spatial_bias`` and ``normalize``.
        normalize: see ``weights``.
        spatial_bias: see ``weights``. Layers of kind ``local`` get a bias for every filter at every
            position with it, whether or not the convolution has one, as the authors' baseline does.
        init: of the layers, their default if None.
        shuffle_positions: each position takes the tables of another one, see
            :class:`convprior.local.layers.shuffled.ShuffledLocalConv2d`: a control.
        subclasses: as in :func:`convprior.local.localize`.

    Returns:
        The names of the layers that were replaced.

    Raises:
        InputError: as in :func:`convprior.local.localize`, or a layer is parametrized. Nothing
            has been replaced then.

    Source: our choice.
    """
    network = network_to_change(model, "relax it")
    if kind not in ("low_rank", "local", "spatial_bias"):
        raise InputError(f"kind is {kind!r}; choose low_rank, local or spatial_bias")
    sites = survey(network, example_input, layers, subclasses).sites()
    for site in sites:
        if site.parametrized:
            raise InputError(f"{site.name!r} is parametrized; relax it before its parametrization")
    check_ties(network, sites, per_position=kind == "local")
    options: dict[str, Any] = {} if init is None else {"init": init}
    if kind != "local":
        options |= {"weights": weights, "normalize": normalize}
        options |= {"rank": rank, "spatial_bias": spatial_bias}
    elif spatial_bias:
        options["bias"] = True
    if kind == "spatial_bias":
        options |= {"rank": 1, "spatial_bias": True}
    if shuffle_positions:
        if kind == "local" or any(len(site.input_size) == 1 for site in sites):
            raise InputError(
                "shuffle_positions changes nothing where every position is free (kind='local', 1-d)"
            )
        options["shuffle_seed"] = seed
    fresh = [_fresh(site, seed, options) for site in sites]
    shared: dict[tuple[int, ...], Any] = {}
    for site, layer in zip(sites, fresh, strict=True):
        layer.weight = shared.setdefault(site.key, layer.weight)
        if site.module.bias is not None and kind != "local":
            layer.bias = shared.setdefault((id(site.module.bias),), layer.bias)
    replace_layers(network, {s.module: x for s, x in zip(sites, fresh, strict=True)})
    return tuple(site.name for site in sites)


def _fresh(site: Site, seed: int, options: dict[str, Any]) -> Any:
    conv: Any = site.module
    kind = local_class(len(site.input_size), low_rank="rank" in options)
    if "weights" in options:
        options = options | {"weights": mode_of(len(site.input_size), options["weights"])}
    if "shuffle_seed" in options:
        kind = ShuffledLocalConv2d
        options = options | {"shuffle_seed": mix(seed, number_of(site.name), _ORDER)}
    own_seed = mix(seed, number_of(site.name))
    with drawing(conv, own_seed):
        layer = kind(**arguments_of(conv) | {"input_size": site.size_argument} | options)
    layer.weight.data = layer.weight.data.contiguous(memory_format=memory_format_of(conv.weight))
    layer.requires_grad_(conv.weight.requires_grad)
    if conv.bias is not None:
        layer.bias.requires_grad_(conv.bias.requires_grad)
    with drawing(conv, own_seed):
        layer.reset_parameters()
    return layer
