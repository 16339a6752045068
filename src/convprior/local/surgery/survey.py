"""Which convolutions of a network can become local, and the size of the input each of them sees."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import type_before_parametrizations

from convprior.errors import InputError
from convprior.filters.selection import (
    ConvLayer,
    convolutions_of,
    layers_of,
    select_convolutions,
)
from convprior.local.surgery.example import run_example
from convprior.local.surgery.replacement import parameters_outside
from convprior.local.surgery.suitability import PLAIN, held, tied, unsuitable

Rule = str | type[nn.Module]
Layers = Rule | Iterable[Rule] | Callable[[str, nn.Module], bool] | None


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


@dataclass(frozen=True)
class Finding:
    """What a survey says of one convolution.

    Attributes:
        layer: the convolution.
        input_sizes: those it has seen; none where the example did not reach it, or it did not have
            to be run to know.
        reason: why it cannot become local, or nothing.
        strict: whether a reason is an error: the layer was asked for by its own name or type, or
            sees inputs of several sizes.
    """

    layer: ConvLayer
    input_sizes: tuple[tuple[int, ...], ...]
    reason: str
    strict: bool

    @property
    def site(self) -> Site:
        """The same layer, one that can become local."""
        layer, (size,) = self.layer, self.input_sizes
        return Site(layer.name, layer.module, layer.parametrized, layer.aliases, size)


@dataclass
class _Seen:
    """What went through one convolution."""

    input_sizes: set[tuple[int, ...]] = field(default_factory=set)
    positions: int = 0
    faithful: bool = True

    @property
    def several(self) -> bool:
        """Whether no single local layer can take its place, which it could otherwise."""
        return self.faithful and len(self.input_sizes) > 1

    def refuses(self, by_default: bool) -> str:
        """Why a layer that has seen this cannot become local, or nothing."""
        if not self.faithful:
            return "computes something else than the convolution with its weight"
        if not self.input_sizes:
            return "was not run by the example input in evaluation mode"
        if self.several:
            sizes = " and ".join(map(str, sorted(self.input_sizes)))
            return (
                f"sees inputs of sizes {sizes} and a local layer is made for one; leave it out "
                "through layers="
            )
        return "has a single position" if by_default and self.positions == 1 else ""


@dataclass(frozen=True)
class Survey:
    """The convolutions of a network that were asked for.

    Attributes:
        findings: one a module, in registration order.
        output: the tensors that the network made of the example.
    """

    findings: list[Finding]
    output: list[Tensor]

    def sites(self) -> list[Site]:
        """Those that can become local; at least one.

        Raises:
            InputError: as in :func:`convprior.local.localize`.
        """
        for finding in self.findings:
            if finding.reason and finding.strict:
                raise InputError(f"{finding.layer.name!r} {finding.reason}")
        sites = [finding.site for finding in self.findings if not finding.reason]
        if not sites:
            raise InputError(f"no layer would change: {_reasons(self.findings)}")
        return sites


def survey(
    network: nn.Module, example_input: Any, layers: Layers = None, subclasses: bool = False
) -> Survey:
    """Runs the example through the network and finds what can become local.

    The network runs in evaluation mode without gradients; afterwards modes, buffers, hooks and
    random generators are what they were.

    Args:
        network: without wrappers.
        example_input: a tensor, a sequence of positional or a mapping of keyword arguments.
        layers: as in :func:`convprior.local.localize`.
        subclasses: as in :func:`convprior.local.localize`.

    Raises:
        InputError: ``layers`` matches nothing, or is no rule.
    """
    asked, by_name = _asked(network, layers)
    by_default = layers is None
    compiled = {id(getattr(module, "_orig_mod", None)) for module in network.modules()}
    reasons: dict[str, str] = {}
    for layer in asked:
        if id(layer.module) in compiled:
            reasons[layer.name] = "is compiled on its own: convert it before torch.compile"
        elif why := unsuitable(layer, by_default, subclasses or layer.name in by_name):
            reasons[layer.name] = why
    suitable = [layer for layer in asked if layer.name not in reasons]
    seen, output = _run(network, example_input, [layer.module for layer in suitable])
    for layer in suitable:
        if why := seen[layer.module].refuses(by_default):
            reasons[layer.name] = why
    sites = [layer for layer in suitable if layer.name not in reasons]
    reasons |= tied(network, sites) | held(network, sites)
    findings = [
        Finding(
            layer,
            tuple(sorted(seen[layer.module].input_sizes)),
            reasons.get(layer.name, ""),
            layer.name in by_name or seen[layer.module].several,
        )
        for layer in asked
    ]
    return Survey(findings, output)


def check_ties(network: nn.Module, sites: list[Site], *, per_position: bool) -> None:
    """Refuses shared parameters that cannot stay shared.

    Raises:
        InputError: two sites share a weight that is parametrized, or a weight or bias that becomes
            one ``per_position``, or another module has such a bias too.
    """
    owners: dict[tuple[str, tuple[int, ...]], Site] = {}
    for site in sites:
        shared: dict[tuple[str, tuple[int, ...]], str] = {}
        if per_position:
            shared["weight", site.key] = "would become one for each position"
        if per_position and site.module.bias is not None:
            shared["bias", (id(site.module.bias),)] = "would become one for each position"
        if site.parametrized:
            shared["weight", site.key] = "is parametrized"
        for (kind, key), what in shared.items():
            if (first := owners.setdefault((kind, key), site)) is not site:
                raise InputError(
                    f"{first.name!r} and {site.name!r} share a {kind}, which {what}; untie it, or "
                    "leave them out through layers="
                )
    outside = parameters_outside(network, [site.module for site in sites]) if per_position else {}
    for site in sites:
        if id(site.module.bias) in outside:
            raise InputError(
                f"{site.name!r} shares its bias with {outside[id(site.module.bias)]}, which would "
                "keep it; untie it, or leave the layer out through layers="
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
    if not rules:
        raise InputError("no layer would change: layers is empty; name some, or give None")
    for rule in rules:
        if not isinstance(rule, str | type):
            raise InputError(f"layers has {rule!r}; give names, patterns, types or a function")
    select_convolutions(network, rules)
    chosen = [layer for layer in found if any(map(layer.fits, rules))]
    exact = {
        layer.name
        for layer in chosen
        if {layer.name, *layer.aliases} & {rule for rule in rules if isinstance(rule, str)}
        or type_before_parametrizations(layer.module) in set(rules) - set(PLAIN)
    }
    return chosen, exact


def _run(
    network: nn.Module, example_input: Any, convolutions: list[_ConvNd]
) -> tuple[Mapping[_ConvNd, _Seen], list[Tensor]]:
    seen: Mapping[_ConvNd, _Seen] = defaultdict(_Seen)

    def listen(conv: Any, args: Any, named: Any, output: Tensor) -> None:
        x = args[0] if args else named["input"]
        record = seen[conv]
        axes = len(conv.kernel_size)
        record.input_sizes.add(tuple(x.shape[-axes:]))
        record.positions = math.prod(output.shape[-axes:])
        if type_before_parametrizations(conv) not in PLAIN:
            base = nn.Conv2d if isinstance(conv, nn.Conv2d) else nn.Conv1d
            plain = base._conv_forward(conv, x, conv.weight, conv.bias)
            same = plain.shape == output.shape
            # A network without memory has no values to compare.
            same = same and (output.is_meta or torch.allclose(plain, output))
            record.faithful = record.faithful and same

    with ExitStack() as stack:
        for conv in convolutions:
            # First of all hooks, and so with the output that no other hook has changed.
            handle = conv.register_forward_hook(listen, with_kwargs=True, prepend=True)
            stack.callback(handle.remove)
        return seen, run_example(network, example_input)


def _reasons(findings: list[Finding]) -> str:
    """Each reason with the layers it holds for."""
    names: dict[str, list[str]] = {}
    for finding in findings:
        names.setdefault(finding.reason, []).append(repr(finding.layer.name))
    parts = []
    for why, layers in names.items():
        more = f" and {len(layers) - 3} more" if len(layers) > 3 else ""
        parts.append(f"{', '.join(layers[:3])}{more}: {why}")
    return "; ".join(parts)
