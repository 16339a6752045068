"""Which prior belongs to which convolution: one for all of its kernel size, or a mapping."""

import re
from collections.abc import Mapping

from torch.nn.modules.conv import _ConvNd

from convprior.errors import InputError
from convprior.filters.prior.filter_prior import FilterPrior
from convprior.filters.selection import listing, matches

Priors = FilterPrior | Mapping[str, FilterPrior]

_SIZE = re.compile(r"\d+(x\d+){0,2}")  # "3x3", "5" of a 1-d filter


def assign_priors(convolutions: Mapping[str, _ConvNd], priors: Priors) -> dict[str, FilterPrior]:
    """Gives each convolution its prior; those that none fits are left out.

    The keys of a mapping are layer names, shell patterns or parents' names (``"layer1.*"``,
    ``"layer1"``), or kernel sizes (``"3x3"``). A name fits one layer; a pattern, a kernel size and
    a single prior fit the layers of the prior's kernel size. Where several fit, a name goes before
    a pattern and a pattern before a kernel size; of two patterns the later counts. A module that
    has several names gets under each what it gets under one.

    Args:
        convolutions: by name.
        priors: one prior, or a mapping such as :func:`convprior.filters.measured_priors` returns.

    Returns:
        Name -> prior, in the order of ``convolutions``.

    Raises:
        InputError: a key fits no layer or is no text, a named layer has another kernel size than
            its prior, a value is no prior, or two layers that share a weight get different priors.

    Source: our choice.
    """
    if isinstance(priors, FilterPrior):
        return _single(convolutions, priors)
    if not isinstance(priors, Mapping) or not priors:
        raise InputError(
            f"priors are {priors!r}; give a FilterPrior, or a mapping from layer names, patterns "
            'or kernel sizes such as "3x3" to priors'
        )
    found: dict[int, dict[str, FilterPrior]] = {0: {}, 1: {}, 2: {}}
    for key, prior in priors.items():
        if not isinstance(prior, FilterPrior):
            raise InputError(f"the entry {key!r} is {prior!r}; give a FilterPrior")
        if not isinstance(key, str):
            raise InputError(
                f"a key of the priors is {key!r}; give a layer's name, a pattern or a kernel size "
                'such as "3x3", as text'
            )
        rank, named = _named(key, convolutions)
        fitting = [n for n in named if tuple(convolutions[n].kernel_size) == prior.kernel_size]
        _check(key, prior, rank, named, fitting, convolutions)
        found[rank].update(dict.fromkeys(fitting, prior))
    together = found[0] | found[1] | found[2]
    assigned = {name: together[name] for name in convolutions if name in together}
    _check_ties(convolutions, assigned)
    of_module = {id(convolutions[name]): prior for name, prior in assigned.items()}
    return {n: of_module[id(m)] for n, m in convolutions.items() if id(m) in of_module}


def _single(convolutions: Mapping[str, _ConvNd], prior: FilterPrior) -> dict[str, FilterPrior]:
    size = prior.kernel_size
    fitting = [name for name, module in convolutions.items() if tuple(module.kernel_size) == size]
    if not fitting:
        raise InputError(
            f"no matching layer: no convolution of kernel size {size} is among "
            f"{listing(list(convolutions))}; give a prior of their size"
        )
    return dict.fromkeys(fitting, prior)


def _named(key: str, convolutions: Mapping[str, _ConvNd]) -> tuple[int, list[str]]:
    if key in convolutions:
        return 2, [key]
    named = [name for name, module in convolutions.items() if matches(key, name, module)]
    if named or not _SIZE.fullmatch(key):
        return 1, named
    return 0, [name for name, module in convolutions.items() if _text(module.kernel_size) == key]


def _check(
    key: str,
    prior: FilterPrior,
    rank: int,
    named: list[str],
    fitting: list[str],
    convolutions: Mapping[str, _ConvNd],
) -> None:
    if fitting:
        return
    size = prior.kernel_size
    if not named:
        raise InputError(
            f"the prior for {key!r} matches no convolution of this model; it has "
            f"{listing(list(convolutions))}"
        )
    if rank == 1:
        raise InputError(
            f"no matching layer: no convolution of kernel size {size} is among "
            f"{listing(named)}, which {key!r} names; give a prior of their size"
        )
    raise InputError(
        f"the prior for {key!r} has kernel size {size} and {named[0]!r} has "
        f"{tuple(convolutions[named[0]].kernel_size)}; give a prior of that size"
    )


def _check_ties(convolutions: Mapping[str, _ConvNd], assigned: Mapping[str, FilterPrior]) -> None:
    first: dict[int, str] = {}
    for name in assigned:
        weight = convolutions[name]._parameters.get("weight")
        other = first.setdefault(id(weight), name) if weight is not None else name
        if assigned[other] != assigned[name]:
            raise InputError(
                f"{other!r} and {name!r} share one weight and get different priors; give one"
            )


def _text(kernel_size: tuple[int, ...]) -> str:
    return "x".join(map(str, kernel_size))
