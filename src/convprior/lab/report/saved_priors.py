"""``convprior inspect --save-prior``: what filters have learned, kept for recipes."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from convprior.errors import InputError
from convprior.filters import FilterPrior, measured_priors, save_priors
from convprior.filters.prior.sources import all_banks
from convprior.filters.taps.layer import size_text
from convprior.lab.report.taps import Inspected
from convprior.lab.study.tables import printable

_MOST = 4
"""Singular priors named one by one."""


def check_shrinkage(shrinkage: float, path: Path | None) -> None:
    """Raises InputError unless the share is in [0, 1], and 0 where nothing is saved."""
    if not 0.0 <= shrinkage <= 1.0:
        raise InputError(f"--shrinkage is {shrinkage}; give a share from 0 to 1, such as 0.1")
    if shrinkage and path is None:
        raise InputError(
            f"--shrinkage {shrinkage} changes a saved prior alone; add --save-prior FILE, or leave "
            "it out"
        )


def save_measured(
    inspected: Sequence[Inspected],
    path: Path,
    per: Literal["layer", "kernel_size"],
    shrinkage: float,
) -> str:
    """Saves one prior a layer or kernel size, pooled over the networks.

    Args:
        inspected: the networks.
        path: of the file.
        per: what gets a prior of its own.
        shrinkage: as in :func:`convprior.filters.measured_priors`.

    Returns:
        What to tell the user: where it is, and a line on those that are singular.

    Raises:
        InputError: there is no convolution larger than 1x1, or one cannot be measured.
        RunError: the file cannot be written.
    """
    priors = measured_priors([one.network for one in inspected], per=per, shrinkage=shrinkage)
    save_priors(path, priors)
    singular = {name: prior for name, prior in priors.items() if prior.is_singular}
    said = f"prior saved: {path}"
    if not singular:
        return said
    filters = _filters(inspected, per)
    few = [_reason(name, prior, filters[name]) for name, prior in list(singular.items())[:_MOST]]
    few += [f"{len(singular) - _MOST} more"] * (len(singular) > _MOST)
    it = "it has" if len(singular) == 1 else "they have"
    which = "it" if len(singular) == 1 else "them"
    return (
        f"{said}\n{'; '.join(few)}, so {it} no precision: good for initial weights only; add "
        f"--shrinkage 0.1 to decay by {which}"
    )


def _reason(name: str, prior: FilterPrior, filters: int) -> str:
    taps = math.prod(prior.kernel_size)
    if filters < taps:
        return f"{printable(name)}: {filters} filters for {taps} taps"
    return f"{printable(name)}: its {filters} filters span {prior.rank} of {taps} dimensions"


def _filters(inspected: Sequence[Inspected], per: str) -> Mapping[str, int]:
    """Filters behind each prior, one a channel, as :func:`measured_priors` pools them."""
    found: dict[str, int] = {}
    for bank in (bank for one in inspected for bank in all_banks(one.network)):
        filters, channels, *size = bank.weight.shape
        name = bank.name if per == "layer" else size_text(tuple(size))
        found[name] = found.get(name, 0) + filters * channels
    return found
