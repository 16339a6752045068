"""Several priors at once: one a layer or one a kernel size, measured, saved and loaded."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

from convprior.errors import InputError
from convprior.filters.filter_banks import FilterBank, Source
from convprior.filters.prior.covariance import TapCovariance
from convprior.filters.prior.file import read_priors, write_priors
from convprior.filters.prior.filter_prior import FilterPrior, check_toward
from convprior.filters.prior.sources import all_banks, size_of


def measured_priors(
    source: Source | Sequence[Source],
    *,
    per: Literal["layer", "kernel_size"] = "kernel_size",
    shrinkage: float = 0.0,
    toward: TapCovariance | None = None,
    monotone: bool = False,
) -> dict[str, FilterPrior]:
    """:meth:`FilterPrior.measured` for each layer, or pooled for each kernel size, of a network.

    Convolutions of one tap (1x1) have nothing to measure and are left out.

    Args:
        source: as in :meth:`FilterPrior.measured`, or a list of such: layers of one name are
            pooled, as several seeds of one network have them.
        per: ``layer``: keys are layer names; ``kernel_size``: keys are ``"3x3"`` and the like.
        shrinkage: as in :meth:`FilterPrior.measured`.
        toward: as there; used for its own kernel size, the others shrink toward independent taps.
        monotone: as there.

    Returns:
        The priors, layers in their order and kernel sizes in that of their first layer.

    Raises:
        InputError: there is no convolution larger than 1x1, a layer cannot be measured, or
            ``toward`` is given without ``shrinkage``.

    Source: our choice.
    """
    if per not in ("layer", "kernel_size"):
        raise InputError(f"per is {per!r}; choose 'layer' or 'kernel_size'")
    check_toward(shrinkage, toward)
    several = isinstance(source, list | tuple)
    sources = cast("Sequence[Source]", source if several else [source])
    groups: dict[str, list[FilterBank]] = {}
    for bank in (bank for one in sources for bank in all_banks(one)):
        size = size_of(bank)
        if math.prod(size) > 1:
            key = bank.name if per == "layer" else "x".join(map(str, size))
            groups.setdefault(key, []).append(bank)
    if not groups:
        raise InputError("every convolution is 1x1, so there are no taps to compare")
    sizes = {size_of(bank) for banks in groups.values() for bank in banks}
    if toward is not None and toward.kernel_size not in sizes:
        raise InputError(f"no convolution has the kernel size {toward.kernel_size} of toward")
    return {
        name: FilterPrior._of_banks(
            banks,
            shrinkage,
            toward if toward and toward.kernel_size == size_of(banks[0]) else None,
            monotone,
        )
        for name, banks in groups.items()
    }


def save_priors(path: str | os.PathLike[str], priors: Mapping[str, FilterPrior]) -> None:
    """Writes named priors to one safetensors file, as :meth:`FilterPrior.save` does one.

    Raises:
        InputError: there are none, or a name is no printable text.
        RunError: the file cannot be written.
    """
    if not isinstance(priors, Mapping):
        raise InputError(
            f"priors are a {type(priors).__name__}; give a mapping from names to priors"
        )
    if not priors or not all(isinstance(name, str) and name.isprintable() for name in priors):
        raise InputError(
            f"the priors' names are {list(priors)}; give at least one, all printable texts"
        )
    for name, prior in priors.items():
        if not isinstance(prior, FilterPrior):
            raise InputError(f"the entry {name!r} is {prior!r}; give a FilterPrior")
    write_priors(Path(path), {name: prior._stored() for name, prior in priors.items()})


def load_priors(path: str | os.PathLike[str]) -> dict[str, FilterPrior]:
    """Reads named priors; a file of :meth:`FilterPrior.save` holds one, called ``prior``.

    Raises:
        RunError: the file is absent, damaged or of another kind.
    """
    stored = read_priors(Path(path))
    return {name: FilterPrior._restored(Path(path), one) for name, one in stored.items()}
