"""Why a convolution cannot become local, as far as its network shows without being run."""

import math

from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

from convprior.filters.selection import ConvLayer
from convprior.local.surgery.parametrized import parts_besides
from convprior.local.surgery.replacement import parameters_outside

PLAIN = (nn.Conv1d, nn.Conv2d)


def unsuitable(layer: ConvLayer, by_default: bool, subclasses: bool) -> str:
    """Why a convolution cannot become local, or nothing."""
    conv = layer.module
    kind = type_before_parametrizations(conv)
    if not isinstance(conv, PLAIN):
        return f"is a {kind.__name__}; Conv1d and Conv2d can become local"
    if kind not in PLAIN and not vars(kind).get("localizable") and not subclasses:
        base = "Conv2d" if isinstance(conv, nn.Conv2d) else "Conv1d"
        return f"is a {kind.__name__}, a subclass of {base}: give its name or subclasses=True"
    if kind not in PLAIN and (own := parts_besides(conv)):
        return (
            f"is a {kind.__name__} with {', '.join(own)} besides weight and bias: one example "
            "cannot show that it computes what a convolution does"
        )
    if "forward" in vars(conv):
        return "has had its forward replaced"
    if conv.weight.is_complex():
        return "has complex weights"
    if conv.bias is not None and conv._parameters.get("bias") is None:
        return "has a parametrized bias: make it a parameter first"
    if by_default and math.prod(conv.kernel_size) == 1:
        return "has a kernel of one tap: name it in layers"
    return ""


def tied(network: nn.Module, layers: list[ConvLayer]) -> dict[str, str]:
    """Layers whose weight another module uses too, one that would keep the old weight."""
    outside = parameters_outside(network, [layer.module for layer in layers])
    return {
        layer.name: f"shares its weight with {outside[id(tensor)]}, which would keep it"
        for layer in layers
        for tensor in layer.tensors()
        if id(tensor) in outside
    }


def held(network: nn.Module, layers: list[ConvLayer]) -> dict[str, str]:
    """Layers that a module also keeps as a plain attribute, where no replacement would reach."""
    names = {id(layer.module): layer.name for layer in layers}
    found = {}
    for owner, module in network.named_modules():
        for key, value in vars(module).items():
            if key == "_modules":
                continue
            values = value.values() if isinstance(value, dict) else value
            for part in values if isinstance(value, dict | list | tuple | set) else [value]:
                if id(part) in names:
                    where = f"{owner}.{key}".removeprefix(".")
                    found[names[id(part)]] = f"is also in {where}, which is no registered module"
    return found
