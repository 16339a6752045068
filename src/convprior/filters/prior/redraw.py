"""Drawing a network's parameters again, in place, each layer from its own random numbers."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, nn

from convprior._random import mix
from convprior.errors import InputError
from convprior.filters.prior.assignment import Priors, assign_priors
from convprior.filters.prior.tap_gaussian import refuse_undrawable
from convprior.filters.selection import convolutions_of, unwrap


@torch.no_grad()
def redraw_(
    module: nn.Module, *, seed: int, prior: Priors | None = None, only_prior: bool = False
) -> tuple[str, ...]:
    """Draws every layer again, as a pure function of ``seed`` and the layer's name in ``module``.

    A layer draws with its own ``reset_parameters``, which for normalization layers also resets
    the running statistics; a convolution that ``prior`` covers then draws its weight from that
    with gain ``sqrt(2)``, as :meth:`FilterPrior.init_` does. So one layer's numbers depend on no
    other layer and on no earlier draw; PyTorch's global generators stay as they were. Parameters
    stay the same objects, with dtype, device, memory format and ``requires_grad``, also frozen
    ones; a weight tied between layers gets the draw of the first. What ``reset_parameters`` draws
    differs between kinds of devices, what a prior draws does not.

    A network that initializes its layers in another way loses that: those of timm, for one, zero
    the last gains of residual blocks and scale by the fan-out. There, and wherever just the
    filters are meant, ``only_prior=True`` leaves everything else exactly as it is.

    Args:
        module: a network or a part of it; compiled and data-parallel wrappers are looked through.
        seed: any int.
        prior: a FilterPrior for the layers of its kernel size, or a mapping from layer names,
            patterns or ``"3x3"`` to priors, as :class:`LocoReg` takes it.
        only_prior: draw the convolutions' weights that ``prior`` covers, with the same numbers,
            and nothing else: no bias, no other layer, no running statistics.

    Returns:
        Names of the parameters that were left as they are: because neither their module nor a
        parent has ``reset_parameters``, or because of ``only_prior``.

    Raises:
        InputError: a layer to draw is parametrized, lazy or on the meta device, ``prior`` fits no
            layer or is missing for ``only_prior``, or the device has no generator that is known
            here. Nothing has been drawn then.

    Example:
        >>> from convprior.filters import FilterPrior
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
        >>> redraw_(net, seed=1, prior=FilterPrior.locality(3))
        ()

    Source: our choice.
    """
    module = unwrap(module)
    if only_prior and prior is None:
        raise InputError("only_prior is True and there is no prior; give prior=")
    convolutions = convolutions_of(module)
    assigned = {} if prior is None else assign_priors(convolutions, prior)
    layers = {} if only_prior else _resettable(module)
    for name, layer in (layers | {name: convolutions[name] for name in assigned}).items():
        refuse_undrawable(layer, repr(name))
    generators = {name: generators_of(layer) for name, layer in layers.items()}
    # Children before parents, whose own method may have the last word on a child; the first of
    # two layers with one weight after the second.
    for name, layer in reversed(layers.items()):
        with seeded(generators[name], mix(seed, number_of(name))):
            layer.reset_parameters()
    for name in reversed(assigned):
        generator = torch.Generator().manual_seed(mix(seed, number_of(name), 1))
        assigned[name].init_(convolutions[name], generator)
    drawn = {id(p) for layer in layers.values() for p in layer.parameters()}
    drawn |= {id(convolutions[name].weight) for name in assigned}
    return tuple(_bare(name) for name, p in module.named_parameters() if id(p) not in drawn)


def _resettable(module: nn.Module) -> dict[str, Any]:
    layers = {_bare(name): layer for name, layer in module.named_modules()}
    return {n: x for n, x in layers.items() if callable(getattr(x, "reset_parameters", None))}


def generators_of(layer: nn.Module) -> list[Generator]:
    """The global generators that a layer's ``reset_parameters`` may draw from.

    Raises:
        InputError: no generator is known for a device of the layer.
    """
    found = [torch.default_generator]
    for device in {parameter.device for parameter in layer.parameters()} - {torch.device("cpu")}:
        known = getattr(getattr(torch, device.type, None), "default_generators", ())
        if device.index is None or not 0 <= device.index < len(known):
            raise InputError(f"no random generator is known for {device}; move the network first")
        found.append(known[device.index])
    return found


@contextmanager
def seeded(generators: list[Generator], seed: int) -> Iterator[None]:
    """Generators started from a seed, and afterwards put back where they were."""
    states = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def number_of(name: str) -> int:
    """A counter for :func:`convprior._random.mix` from a name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())


def _bare(name: str) -> str:
    return name.replace("_orig_mod.", "").removesuffix("._orig_mod")
