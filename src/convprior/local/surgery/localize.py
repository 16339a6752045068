"""Surgery on trained networks: convolutions become local layers with the same function."""

import math
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from convprior.errors import InputError
from convprior.filters.selection import unwrap
from convprior.local.layers.combining import Normalize, WeightsMode
from convprior.local.surgery.conversion import Conversion, local_of, low_rank_of
from convprior.local.surgery.example import difference, run_example
from convprior.local.surgery.replacement import copied, network_to_change, replace_layers, replaced
from convprior.local.surgery.survey import Layers, check_ties, survey


def localize(
    model: nn.Module,
    example_input: Any,
    rank: int | Literal["full"],
    layers: Layers = None,
    *,
    weights: WeightsMode = "separable",
    normalize: Normalize = "softmax",
    spatial_bias: bool = True,
    relative_noise: float = 1e-2,
    seed: int = 0,
    inplace: bool = False,
    subclasses: bool = False,
) -> nn.Module:
    r"""Turns convolutions into low-rank local ones and leaves the network's function as it is.

    Each basis starts as ``B_k = W + delta_k`` with small ``delta_k`` that sum to zero, and all
    combining weights start equal, so that the mixture is ``W`` everywhere, up to rounding (in half
    precision that of the output: the rounded bases are chosen to have the sum of ``W``). Since
    the bases differ, training can make the layer local; with equal ones all gradients would
    coincide and it would stay a convolution for ever.

    One pass of the example finds the size of each layer's input and a second one compares the
    outputs, both in evaluation mode and without a trace in the network. A network that also reads
    the weight of a convolution itself, for a penalty or another convolution, is found so, where
    the output is a tensor, or a sequence, mapping or dataclass of tensors, with values.

    Bias, stride, padding and its mode, dilation, groups, dtype, device, memory format, modes,
    ``requires_grad`` (that of the weight holds for the new tables too) and hooks are kept. A
    module that is used at several places stays one, weights that are tied stay tied, and a
    parametrized weight (weight norm, spectral norm, pruning, ``torch.nn.utils.parametrize``) is
    parametrized in each basis; there the logits differ instead of the bases. Make the optimizer
    afterwards: all parameters but the biases are new.

    Args:
        model: any network; of a compiled or data-parallel one the network inside is taken.
        example_input: what the network gets: a tensor, a sequence of positional or a mapping of
            keyword arguments. Only its spatial size matters.
        rank: number of bases, or ``"full"`` for a kernel at each position.
        layers: names, shell patterns or module types (a parent's name means all below it), or a
            function ``(name, module) -> bool``; they mean 1x1 convolutions too. None: every Conv1d
            and Conv2d with more than one tap and more than one position. What cannot become local
            is left alone unless it is asked for by its own name: :func:`localizable` lists it.
        weights: as in :class:`LowRankLocalConv2d` (in 1-d each table is ``map``), like
            ``normalize`` and ``spatial_bias``, and like these without a meaning for ``"full"``.
        normalize: see ``weights``.
        spatial_bias: see ``weights``.
        relative_noise: root mean square of ``delta_k`` over that of its filter.
        seed: of ``delta_k``, a pure function of it and the layer's name.
        inplace: change ``model`` itself.
        subclasses: also convert subclasses of the convolutions that compute what these do, which
            the example decides; those with parameters, buffers or modules of their own never are.
            Without it they are left alone unless ``layers`` has their own name or type; a class
            says that it differs in its draw alone, as convprior's own do, by
            ``localizable = True``.

    Returns:
        The network with local layers: ``model`` if ``inplace``, else a copy, without wrappers.

    Raises:
        InputError: an argument is out of its range; no layer would change, with the reasons; a
            layer asked for by name cannot; a layer sees inputs of several sizes; a weight or bias
            cannot stay tied; the output of the example would change by more than rounding; in
            place, the model is data-parallel or itself the convolution. Nothing has been changed
            then.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> x = torch.randn(2, 3, 16, 16)
        >>> local = localize(net, x, rank=4)
        >>> torch.allclose(local(x), net(x), atol=1e-6)
        True

    Source: the identity of equal weights is in Elsayed et al. (ICML 2020); the conversion of a
    trained network is our choice.
    """
    if rank != "full" and (not isinstance(rank, int) or isinstance(rank, bool) or rank < 1):
        raise InputError(f"rank is {rank!r}; give an int >= 1, or 'full'")
    if not 0.0 < relative_noise < math.inf:
        raise InputError(
            f"relative_noise is {relative_noise}; give one > 0, such as 1e-2: equal bases with "
            "equal weights would stay equal for ever"
        )
    if not isinstance(model, nn.Module):
        raise InputError(f"the model is a {type(model).__name__}; give a torch.nn.Module")
    network = network_to_change(model, "localize") if inplace else copied(unwrap(model))
    found = survey(network, example_input, layers, subclasses)
    sites = found.sites()
    check_ties(network, sites, per_position=rank == "full")
    if rank == "full":
        made = [local_of(site) for site in sites]
    else:
        conversion = Conversion(rank, weights, normalize, spatial_bias, relative_noise, seed)
        made = [low_rank_of(site, conversion) for site in sites]
    shared: dict[tuple[int, ...], Any] = {}
    for site, layer in zip(sites, made, strict=True):
        if not site.parametrized:
            layer.weight = shared.setdefault(site.key, layer.weight)
    new: dict[nn.Module, nn.Module]
    new = {site.module: layer for site, layer in zip(sites, made, strict=True)}

    def change(layers: Mapping[nn.Module, nn.Module]) -> str:
        return _change(network, layers, example_input, found.output)

    if why := change(new):
        alone = [s.name for s in sites if change({s.module: new[s.module]})]
        raise InputError(
            f"with local layers this network would not compute the same: {why}; it may read the "
            f"weight of a convolution itself, or give another output at each call; leave "
            f"{', '.join(map(repr, alone)) or 'layers'} out through layers="
        )
    replace_layers(network, new)
    return model if inplace else new.get(network, network)


def _change(
    network: nn.Module,
    layers: Mapping[nn.Module, nn.Module],
    example_input: Any,
    expected: list[Tensor],
) -> str:
    """How the example's output changes with layers replaced, or nothing."""
    with replaced(network, layers):
        try:
            output = run_example(layers.get(network, network), example_input)
        except Exception as error:
            return f"it would fail with {str(error)!r}"
    return difference(expected, output)
