"""All local layers of a network for images of another size."""

from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from convprior.errors import InputError
from convprior.filters.selection import unwrap
from convprior.local.layers.local_conv import LocalConvNd
from convprior.local.layers.low_rank import LowRankLocalConvNd
from convprior.local.surgery.example import run_example


def resize_positions(model: nn.Module, example_input: Any) -> list[str]:
    """Fits every local layer of a network to the size at which an example reaches it, in place.

    Calls the layers' own ``resize_positions``: logits and spatial bias (of a
    :class:`LocalConv2d` its kernels) are interpolated linearly. Parameters stay the same objects,
    with another shape, so an optimizer that keeps averages must be made anew.

    Args:
        model: any network with local layers; compiled and data-parallel wrappers are looked
            through.
        example_input: what its ``forward`` takes: a tensor of the new size, or a sequence of
            positional or a mapping of keyword arguments. It runs once, without a trace.

    Returns:
        The names of the layers that changed.

    Raises:
        InputError: the network has no local layer, or a kernel does not fit.

    Example:
        >>> import torch
        >>> from convprior.local import LowRankLocalConv2d
        >>> network = nn.Sequential(LowRankLocalConv2d(3, 8, 3, input_size=16, rank=2), nn.ReLU())
        >>> resize_positions(network, torch.zeros(1, 3, 24, 24))
        ['0']

    Source: our choice.
    """
    network = unwrap(model)
    kinds = (LowRankLocalConvNd, LocalConvNd)
    layers = {module: name for name, module in network.named_modules() if isinstance(module, kinds)}
    if not layers:
        raise InputError("the model has no local layer, so there is nothing to resize")
    changed: list[str] = []

    def fit(layer: Any, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        x = args[0] if args else named["input"]
        size = tuple(x.shape[-len(layer.kernel_size) :])
        if size != tuple(layer.input_size):
            layer.resize_positions(size)
            changed.append(layers[layer])

    with ExitStack() as stack:
        for layer in layers:
            handle = layer.register_forward_pre_hook(fit, with_kwargs=True, prepend=True)
            stack.callback(handle.remove)
        run_example(network, example_input)
    return changed
