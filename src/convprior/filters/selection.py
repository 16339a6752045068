"""Which convolutions of a model are meant: by name, by type, by kernel size, ties once."""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from convprior.errors import InputError
from convprior.filters.laws import is_number

Rule = str | type[nn.Module]
Selection = Rule | Iterable[Rule] | None
Schedule = Mapping[str, float] | Callable[[float], float] | None


@dataclass(frozen=True)
class ConvLayer:
    """One convolution of a model.

    Attributes:
        name: its path in the model, without wrappers.
        module: the convolution itself.
        parametrized: its weight is computed from other tensors (weight norm, low rank).
        aliases: further names of the same module in the model.
    """

    name: str
    module: _ConvNd
    parametrized: bool
    aliases: tuple[str, ...] = ()

    def weight(self) -> Tensor:
        """The weight that the next forward pass will use."""
        # The older weight norm, spectral norm and pruning compute it before each forward pass and
        # leave it as an attribute, which an optimizer's step makes stale.
        for hook in self.module._forward_pre_hooks.values():
            fresh: Tensor | None = None
            if isinstance(hook, WeightNorm) and hook.name == "weight":
                fresh = hook.compute_weight(self.module)
            elif isinstance(hook, SpectralNorm) and hook.name == "weight":
                fresh = hook.compute_weight(self.module, do_power_iteration=False)
            elif isinstance(hook, BasePruningMethod) and hook._tensor_name == "weight":
                fresh = hook.apply_mask(self.module)  # type: ignore[no-untyped-call]
            if fresh is not None:
                return fresh
        return self.module.weight

    def fits(self, rule: Rule) -> bool:
        """Whether a rule means this layer, by any of its names."""
        return any(matches(rule, name, self.module) for name in (self.name, *self.aliases))

    def tensors(self) -> list[Tensor]:
        """The parameters an optimizer holds for this weight."""
        if not self.parametrized:
            return [self.module.weight]
        found = dict(self.module.named_parameters())
        return [p for n, p in found.items() if n.startswith(("parametrizations.weight", "weight_"))]


def unwrap(model: nn.Module) -> nn.Module:
    """Removes ``torch.compile``, ``DistributedDataParallel`` and ``DataParallel`` wrappers."""
    while True:
        if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


def convolutions_of(model: nn.Module) -> dict[str, _ConvNd]:
    """Every convolution of a model by its bare name, in registration order, under all its names.

    Raises:
        InputError: ``model`` is no module.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"the model is a {type(model).__name__}; give a torch.nn.Module")
    everything = {
        name.replace("_orig_mod.", "").removesuffix("._orig_mod"): module
        for name, module in unwrap(model).named_modules(remove_duplicate=False)
    }
    return {n: m for n, m in everything.items() if isinstance(m, _ConvNd)}


def layers_of(convolutions: Mapping[str, _ConvNd]) -> list[ConvLayer]:
    """One layer for each module, under its first name, with its other names as aliases."""
    names: dict[int, list[str]] = {}
    for name, module in convolutions.items():
        names.setdefault(id(module), []).append(name)
    layers = []
    for first, *others in names.values():
        module = convolutions[first]
        computed = is_parametrized(module, "weight") or module._parameters.get("weight") is None
        layers.append(ConvLayer(first, module, computed, tuple(others)))
    return layers


def select_convolutions(
    model: nn.Module,
    include: Selection = None,
    exclude: Selection = None,
    among: Container[str] | None = None,
) -> list[ConvLayer]:
    """The convolutions of ``model`` (1-d to 3-d, transposed too), in registration order.

    Args:
        model: any module; compiled and data-parallel wrappers are looked through.
        include: names, shell patterns (``"layer1.*"``; a parent's name means all below it) or
            module types; None means every convolution.
        exclude: the same, taken away afterwards.
        among: keep only these names, such as those that have a prior; None keeps all.

    Returns:
        One entry per distinct weight: a weight tied between layers appears once, under its
        first name. A module registered under several names is meant by any of them.

    Raises:
        InputError: ``model`` is no module, a rule matches nothing or is no rule, no layer is left,
            or a lazy layer has no shape yet.

    Source: our choice.
    """
    convolutions = convolutions_of(model)
    found = layers_of(convolutions)
    wanted, unwanted = _rules(include, "include"), _rules(exclude, "exclude")
    for rule in (*wanted, *unwanted):
        if not any(layer.fits(rule) for layer in found):
            shown = repr(rule) if isinstance(rule, str) else rule.__name__
            raise InputError(
                f"{shown} matches no convolution of this model; it has "
                f"{listing(list(convolutions))}"
            )
    layers: dict[tuple[int, ...], ConvLayer] = {}
    for layer in found:
        if include is not None and not any(map(layer.fits, wanted)):
            continue
        if any(map(layer.fits, unwanted)) or (among is not None and layer.name not in among):
            continue
        plain = layer.module._parameters.get("weight")
        if plain is not None and is_lazy(plain):
            raise InputError(
                f"{layer.name!r} is lazy and has no weight yet; run one batch through first"
            )
        key = tuple(id(tensor) for tensor in layer.tensors()) or (id(layer.module),)
        layers.setdefault(key, layer)
    if not convolutions:
        raise InputError("no matching layer: this model has no convolution; check the model")
    if not layers:
        fitting = "" if among is None else " that a prior fits"
        raise InputError(
            f"no matching layer: no convolution{fitting} is left of {listing(list(convolutions))}; "
            "check the model, include and exclude"
        )
    return list(layers.values())


def schedule_factors(layers: list[ConvLayer], schedule: Schedule) -> list[float]:
    """A factor on the strength for each layer.

    Args:
        layers: from :func:`select_convolutions`.
        schedule: None (all 1); a mapping from names or patterns to factors (others keep 1); or a
            function of the relative depth ``t`` in [0, 1], first to last covered layer.

    Returns:
        One factor >= 0 per layer.

    Raises:
        InputError: a name matches no layer, a factor is no number >= 0, or ``schedule`` is none of
            the above.

    Source: our choice.
    """
    if schedule is None:
        return [1.0] * len(layers)
    factors: list[float] = [1.0] * len(layers)
    if isinstance(schedule, Mapping):
        for rule, factor in schedule.items():
            text = isinstance(rule, str)
            hits = [i for i, layer in enumerate(layers) if text and layer.fits(rule)]
            if not hits:
                names = listing([layer.name for layer in layers])
                raise InputError(f"schedule names {rule!r}, but the covered layers are {names}")
            for index in hits:
                factors[index] = factor
    elif callable(schedule):
        last = max(len(layers) - 1, 1)
        factors = [schedule(index / last) for index in range(len(layers))]
    else:
        raise InputError(
            f"schedule is {schedule!r}; give a mapping from names to factors, or a function of the "
            "relative depth such as lambda t: 1 - t"
        )
    for layer, factor in zip(layers, factors, strict=True):
        if not is_number(factor) or not 0.0 <= factor < float("inf"):
            raise InputError(f"schedule gives {layer.name!r} the factor {factor}; give one >= 0")
    return [float(factor) for factor in factors]


def _rules(selection: Selection, what: str) -> tuple[Rule, ...]:
    if selection is None:
        return ()
    given: Any = selection
    single = isinstance(given, str | type) or not isinstance(given, Iterable)
    rules = (given,) if single else tuple(given)
    for rule in rules:
        if not isinstance(rule, str | type):
            raise InputError(f"{what} has {rule!r}; give names, patterns or module types")
    return rules


def matches(rule: Rule, name: str, module: nn.Module) -> bool:
    """Whether a name, a pattern, a parent's name or a module type means this module."""
    if isinstance(rule, type):
        return isinstance(module, rule)
    return name == rule or name.startswith(f"{rule}.") or fnmatchcase(name, rule)


def listing(names: list[str]) -> str:
    """The first five names, for a message."""
    if not names:
        return "no convolutions"
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
