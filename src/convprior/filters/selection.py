"""Which convolutions of a model are meant: by name, by type, by kernel size, ties once."""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from convprior.errors import InputError

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
    """

    name: str
    module: _ConvNd
    parametrized: bool

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
    """Every convolution of a model by its bare name, in registration order, tied ones too."""
    everything = {
        name.replace("_orig_mod.", "").removesuffix("._orig_mod"): module
        for name, module in unwrap(model).named_modules()
    }
    return {n: m for n, m in everything.items() if isinstance(m, _ConvNd)}


def as_layer(name: str, module: _ConvNd) -> ConvLayer:
    """The convolution with the answer to whether its weight is computed from other tensors."""
    computed = is_parametrized(module, "weight") or module._parameters.get("weight") is None
    return ConvLayer(name, module, computed)


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
        first name.

    Raises:
        InputError: a rule matches nothing, no layer is left, or a lazy layer has no shape yet.

    Source: our choice.
    """
    convolutions = convolutions_of(model)
    wanted, unwanted = _rules(include), _rules(exclude)
    for rule in (*wanted, *unwanted):
        if not any(matches(rule, name, module) for name, module in convolutions.items()):
            shown = repr(rule) if isinstance(rule, str) else rule.__name__
            raise InputError(
                f"{shown} matches no convolution of this model; it has "
                f"{listing(list(convolutions))}"
            )
    layers: dict[tuple[int, ...], ConvLayer] = {}
    for name, module in convolutions.items():
        if include is not None and not any(matches(rule, name, module) for rule in wanted):
            continue
        if any(matches(rule, name, module) for rule in unwanted):
            continue
        if among is not None and name not in among:
            continue
        plain = module._parameters.get("weight")
        if plain is not None and is_lazy(plain):
            raise InputError(f"{name!r} is lazy and has no weight yet; run one batch through first")
        layer = as_layer(name, module)
        key = tuple(id(tensor) for tensor in layer.tensors()) or (id(module),)
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
        InputError: a name matches no layer, or a factor is negative or not finite.

    Source: our choice.
    """
    if schedule is None:
        return [1.0] * len(layers)
    if isinstance(schedule, Mapping):
        factors = [1.0] * len(layers)
        for rule, factor in schedule.items():
            hits = [i for i, layer in enumerate(layers) if matches(rule, layer.name, layer.module)]
            if not hits:
                names = listing([layer.name for layer in layers])
                raise InputError(f"schedule names {rule!r}, but the covered layers are {names}")
            for index in hits:
                factors[index] = float(factor)
    else:
        last = max(len(layers) - 1, 1)
        factors = [float(schedule(index / last)) for index in range(len(layers))]
    for layer, factor in zip(layers, factors, strict=True):
        if not 0.0 <= factor < float("inf"):
            raise InputError(f"schedule gives {layer.name!r} the factor {factor}; give one >= 0")
    return factors


def _rules(selection: Selection) -> tuple[Rule, ...]:
    if selection is None:
        return ()
    if isinstance(selection, str | type):
        return (selection,)
    return tuple(selection)


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
