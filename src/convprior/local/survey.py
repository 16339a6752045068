"""Which convolutions of a network can become local, and the size of the input each of them sees."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import type_before_parametrizations

from convprior.errors import InputError
from convprior.filters.cohesion.listening import evaluating
from convprior.filters.selection import (
    ConvLayer,
    convolutions_of,
    layers_of,
    select_convolutions,
)

Rule = str | type[nn.Module]
Layers = Rule | Iterable[Rule] | Callable[[str, nn.Module], bool] | None
_PLAIN = (nn.Conv1d, nn.Conv2d)


@dataclass(frozen=True)
class Site(ConvLayer):
    """A convolution that can become local.

    Attributes:
        input_size: (H, W), or (L,) of a 1-d convolution.
    """

    input_size: tuple[int, ...] = ()

    @property
    def key(self) -> tuple[int, ...]:
        """The same for sites that share their weight."""
        return tuple(id(tensor) for tensor in self.tensors())

    @property
    def size_argument(self) -> Any:
        """The input size as the layers take it: one int in 1-d."""
        return self.input_size[0] if len(self.input_size) == 1 else self.input_size


@dataclass
class _Seen:
    """What went through one convolution."""

    input_sizes: set[tuple[int, ...]] = field(default_factory=set)
    positions: int = 0
    faithful: bool = True

    def refuses(self, name: str, by_default: bool) -> str:
        """Why a layer that has seen this cannot become local, or nothing.

        Raises:
            InputError: it has seen several sizes.
        """
        if not self.faithful:
            return "computes something else than the convolution with its weight"
        if not self.input_sizes:
            return "was not run by the example input in evaluation mode"
        if len(self.input_sizes) > 1:
            sizes = " and ".join(map(str, sorted(self.input_sizes)))
            raise InputError(
                f"{name!r} sees inputs of sizes {sizes} and a local layer is made for one; "
                "leave it out through layers="
            )
        return "has a single position" if by_default and self.positions == 1 else ""


def survey(
    network: nn.Module, example_input: Any, layers: Layers = None, subclasses: bool = False
) -> list[Site]:
    """Runs the example through the network and finds what can become local.

    The network runs in evaluation mode without gradients; afterwards modes, buffers, hooks and
    random generators are what they were.

    Args:
        network: without wrappers.
        example_input: a tensor, a sequence of positional or a mapping of keyword arguments.
        layers: as in :func:`convprior.local.localize`.
        subclasses: as in :func:`convprior.local.localize`.

    Returns:
        One entry a module, in registration order; at least one.

    Raises:
        InputError: as in :func:`convprior.local.localize`.
    """
    asked, by_name = _asked(network, layers)
    by_default = layers is None
    compiled = {id(getattr(module, "_orig_mod", None)) for module in network.modules()}
    alone: dict[str, str] = {}
    for layer in asked:
        if id(layer.module) in compiled:
            alone[layer.name] = "is compiled on its own: convert it before torch.compile"
        elif why := _unsuitable(layer.module, by_default, subclasses or layer.name in by_name):
            alone[layer.name] = why
    asked = [layer for layer in asked if layer.name not in alone]
    seen = _run(network, example_input, [layer.module for layer in asked])
    sites = []
    for layer in asked:
        record = seen[layer.module]
        if why := record.refuses(layer.name, by_default):
            alone[layer.name] = why
            continue
        (size,) = record.input_sizes
        sites.append(Site(layer.name, layer.module, layer.parametrized, layer.aliases, size))
    alone |= _tied(network, sites) | _held(network, sites)
    for name in by_name & alone.keys():
        raise InputError(f"{name!r} {alone[name]}")
    sites = [site for site in sites if site.name not in alone]
    if not sites:
        raise InputError(f"no layer would change: {_reasons(alone)}")
    return sites


def check_ties(sites: list[Site], *, per_position: bool) -> None:
    """Refuses shared weights that cannot stay shared.

    Raises:
        InputError: two sites share a weight that is parametrized or becomes one ``per_position``.
    """
    owners: dict[tuple[int, ...], Site] = {}
    for site in sites:
        first = owners.setdefault(site.key, site)
        if first is not site and (site.parametrized or per_position):
            what = "is parametrized" if site.parametrized else "would become one for each position"
            raise InputError(
                f"{first.name!r} and {site.name!r} share a weight, which {what}; untie it, or "
                "leave them out through layers="
            )


def _asked(network: nn.Module, layers: Layers) -> tuple[list[ConvLayer], set[str]]:
    """The convolutions that ``layers`` means, and those among them it means by their own name."""
    found = layers_of(convolutions_of(network))
    if layers is None:
        select_convolutions(network)
        return found, set()
    if callable(layers) and not isinstance(layers, type):
        chosen = [layer for layer in found if layers(layer.name, layer.module)]
        if not chosen:
            raise InputError("no layer would change: layers is a function that chose none")
        return chosen, set()
    single = isinstance(layers, str | type) or not isinstance(layers, Iterable)
    rules: tuple[Any, ...] = (layers,) if single else tuple(layers)  # type: ignore[arg-type]
    for rule in rules:
        if not isinstance(rule, str | type):
            raise InputError(f"layers has {rule!r}; give names, patterns, types or a function")
    select_convolutions(network, rules)
    chosen = [layer for layer in found if any(map(layer.fits, rules))]
    exact = {
        layer.name
        for layer in chosen
        if {layer.name, *layer.aliases} & {rule for rule in rules if isinstance(rule, str)}
        or type_before_parametrizations(layer.module) in set(rules) - set(_PLAIN)
    }
    return chosen, exact


def _unsuitable(conv: _ConvNd, by_default: bool, subclasses: bool) -> str:
    """Why a convolution cannot become local, or nothing."""
    kind = type_before_parametrizations(conv)
    if not isinstance(conv, _PLAIN):
        return f"is a {kind.__name__}; Conv1d and Conv2d can become local"
    if kind not in _PLAIN and not vars(kind).get("localizable") and not subclasses:
        base = "Conv2d" if isinstance(conv, nn.Conv2d) else "Conv1d"
        return f"is a {kind.__name__}, a subclass of {base}: give its name or subclasses=True"
    if "forward" in vars(conv):
        return "has had its forward replaced"
    if conv.weight.is_complex():
        return "has complex weights"
    if conv.bias is not None and conv._parameters.get("bias") is None:
        return "has a parametrized bias: make it a parameter first"
    if by_default and math.prod(conv.kernel_size) == 1:
        return "has a kernel of one tap: name it in layers"
    return ""


def _run(
    network: nn.Module, example_input: Any, convolutions: list[_ConvNd]
) -> Mapping[_ConvNd, _Seen]:
    seen: Mapping[_ConvNd, _Seen] = defaultdict(_Seen)

    def listen(conv: Any, args: Any, named: Any, output: Tensor) -> None:
        x = args[0] if args else named["input"]
        record = seen[conv]
        axes = len(conv.kernel_size)
        record.input_sizes.add(tuple(x.shape[-axes:]))
        record.positions = math.prod(output.shape[-axes:])
        if type_before_parametrizations(conv) not in _PLAIN:
            base = nn.Conv2d if isinstance(conv, nn.Conv2d) else nn.Conv1d
            plain = base._conv_forward(conv, x, conv.weight, conv.bias)
            same = plain.shape == output.shape
            # A network without memory has no values to compare.
            same = same and (output.is_meta or torch.allclose(plain, output))
            record.faithful = record.faithful and same

    devices = {p.device for p in network.parameters() if p.device.type == "cuda"}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices))
        stack.enter_context(evaluating(network))
        stack.enter_context(torch.no_grad())
        stack.enter_context(_kept_buffers(network))
        if any(hasattr(module, "_orig_mod") for module in network.modules()):
            # Compiled parts run without the hooks that came after their compilation.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for conv in convolutions:
            # First of all hooks, and so with the output that no other hook has changed.
            handle = conv.register_forward_hook(listen, with_kwargs=True, prepend=True)
            stack.callback(handle.remove)
        if isinstance(example_input, Mapping):
            network(**example_input)
        elif isinstance(example_input, list | tuple):
            network(*example_input)
        else:
            network(example_input)
    return seen


@contextmanager
def _kept_buffers(network: nn.Module) -> Iterator[None]:
    """Buffers that a forward pass changes in evaluation mode too get their values back."""
    kept = [
        (module, name, buffer, buffer.clone())
        for module in network.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and not is_lazy(buffer)
    ]
    try:
        yield
    finally:
        for module, name, buffer, value in kept:
            module._buffers[name] = buffer.copy_(value)


def _tied(network: nn.Module, sites: list[Site]) -> dict[str, str]:
    """Sites whose weight another module uses too, one that would keep the old weight."""
    inside = {id(part) for site in sites for part in site.module.modules()}
    outside = {
        id(parameter): f"{name}.{key}".removeprefix(".")
        for name, module in network.named_modules()
        if id(module) not in inside
        for key, parameter in module._parameters.items()
        if parameter is not None
    }
    return {
        site.name: f"shares its weight with {outside[id(tensor)]}, which would keep it"
        for site in sites
        for tensor in site.tensors()
        if id(tensor) in outside
    }


def _held(network: nn.Module, sites: list[Site]) -> dict[str, str]:
    """Sites that a module also keeps as a plain attribute, where no replacement would reach."""
    names = {id(site.module): site.name for site in sites}
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


def _reasons(alone: Mapping[str, str]) -> str:
    """Each reason with the layers it holds for."""
    names: dict[str, list[str]] = {}
    for name, why in alone.items():
        names.setdefault(why, []).append(repr(name))
    parts = []
    for why, layers in names.items():
        more = f" and {len(layers) - 3} more" if len(layers) > 3 else ""
        parts.append(f"{', '.join(layers[:3])}{more}: {why}")
    return "; ".join(parts)
